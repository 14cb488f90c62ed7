"""Whether libvirt can be reached."""

from mc.errors import Refused, Unavailable
from mc.virsh import Virsh


class Health:
    """Asks libvirt whenever it is asked: no answer is older than the question."""

    def __init__(self, virsh: Virsh) -> None:
        self._virsh = virsh

    def reachable(self) -> bool:
        """Whether libvirt itself answers, within the deadline of a read."""
        try:
            self._virsh.hostname()
        except Unavailable:
            return False
        except Refused:
            pass  # Some hypervisors cannot tell; but this was an answer.
        return True
