"""virsh, kept alive: the only package that starts processes."""

from mc.virsh.binary import check_binary
from mc.virsh.commands import Virsh
from mc.virsh.events import DomainEvents

__all__ = ["DomainEvents", "Virsh", "check_binary"]
