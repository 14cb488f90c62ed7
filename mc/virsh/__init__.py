"""virsh, kept alive: the only package that starts processes."""

from mc.virsh.binary import check_binary
from mc.virsh.commands import Virsh

__all__ = ["Virsh", "check_binary"]
