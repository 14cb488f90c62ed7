"""Whether libvirt can be reached."""

import time
from threading import Condition

from mc.errors import Refused, TooMany, Unavailable
from mc.turns import Places
from mc.virsh import Virsh

# Seconds that one of a crowd waits for a question that somebody else has asked.
_PATIENCE = 0.1


class Health:
    """Asks libvirt whenever it is asked: no answer is older than the question.

    One question at a time, since strangers may ask: who comes meanwhile shares its answer. As many
    as there are `places` wait for it however long it takes; what is beyond them is a crowd, for
    which libvirt is away when it has not answered for a while.
    """

    def __init__(self, virsh: Virsh, places: Places) -> None:
        self._virsh = virsh
        self._places = places
        self._changed = Condition()
        self._asked_at: float | None = None
        self._answers = 0
        self._is_reachable = False

    def reachable(self) -> bool:
        """Whether libvirt itself answers, within the deadline of a read."""
        with self._changed:
            asks = self._asked_at is None
            if asks:
                self._asked_at = time.monotonic()
            asked_at, before = self._asked_at or 0.0, self._answers
        if asks:
            return self._ask()
        try:
            with self._places.place():
                return self._shared(before, None)
        except TooMany:
            return self._shared(before, asked_at + _PATIENCE - time.monotonic())

    def _ask(self) -> bool:
        is_reachable = False
        try:
            self._virsh.hostname()
            is_reachable = True
        except Unavailable:
            pass
        except Refused:
            # Some hypervisors cannot tell; but this was an answer.
            is_reachable = True
        finally:
            with self._changed:
                self._asked_at = None
                self._answers += 1
                self._is_reachable = is_reachable
                self._changed.notify_all()
        return is_reachable

    def _shared(self, before: int, seconds: float | None) -> bool:
        """What libvirt answered to somebody else; False if it has not within so many seconds."""
        with self._changed:
            answered = self._changed.wait_for(lambda: self._answers > before, seconds)
            return answered and self._is_reachable
