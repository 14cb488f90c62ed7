"""virsh, kept alive: the only package that starts processes."""

from mc.virsh.binary import check_binary
from mc.virsh.commands import Virsh
from mc.virsh.events import QemuEvent
from mc.virsh.gate import Gate
from mc.virsh.layout import FOR_ONE_OF_MANY, Layout, for_the_only_host
from mc.virsh.listing import Listed, Listing
from mc.virsh.pool import SessionCounts
from mc.virsh.stream import Stream
from mc.virsh.streams import Streams

__all__ = [
    "FOR_ONE_OF_MANY",
    "Gate",
    "Layout",
    "Listed",
    "Listing",
    "QemuEvent",
    "SessionCounts",
    "Stream",
    "Streams",
    "Virsh",
    "check_binary",
    "for_the_only_host",
]
