"""virsh, kept alive: the only package that starts processes."""

from mc.virsh.binary import check_binary
from mc.virsh.commands import Virsh
from mc.virsh.events import RebootEvents

__all__ = ["RebootEvents", "Virsh", "check_binary"]
