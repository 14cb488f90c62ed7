"""virsh, kept alive: the only package that starts processes."""

from mc.virsh.binary import check_binary
from mc.virsh.commands import Virsh
from mc.virsh.events import QemuEvent, domain_events, qemu_events

__all__ = ["QemuEvent", "Virsh", "check_binary", "domain_events", "qemu_events"]
