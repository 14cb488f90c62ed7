"""Who may act on a machine now."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock

from mc.errors import Busy, TooManyActions


@dataclass
class _Queue:
    turn: Lock = field(default_factory=Lock)
    length: int = 0


class Turns:
    """One holder at a time for each key; keys do not wait for each other."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._queues: dict[str, _Queue] = {}
        self._guard = Lock()

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """The only turn of this key; raises `Busy` if it has not come after so many seconds."""
        with self._guard:
            queue = self._queues.setdefault(key, _Queue())
            queue.length += 1
        try:
            if not queue.turn.acquire(timeout=self._seconds):
                raise Busy(self._seconds)
            try:
                yield
            finally:
                queue.turn.release()
        finally:
            with self._guard:
                queue.length -= 1
                if not queue.length:
                    del self._queues[key]


class Places:
    """At most `limit` actions at once, so that some worker is always free to answer a read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = BoundedSemaphore(limit)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises `TooManyActions` at once if every place is taken."""
        if not self._free.acquire(blocking=False):
            raise TooManyActions(self._limit)
        try:
            yield
        finally:
            self._free.release()
