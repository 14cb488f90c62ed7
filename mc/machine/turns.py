"""Who may act on a machine now."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock

from mc.errors import Busy, TooMany
from mc.machine.machines import FoundMachine, Machines
from mc.machine.progress import Progress


@dataclass
class _Queue:
    turn: Lock = field(default_factory=Lock)
    length: int = 0


class Turns:
    """One holder at a time for each key; keys do not wait for each other.

    A turn that has not come after `seconds`, or with `longest` others ahead, raises `Busy`.
    """

    def __init__(self, seconds: float, longest: int) -> None:
        self._seconds = seconds
        self._longest = longest
        self._queues: dict[str, _Queue] = {}
        self._guard = Lock()

    @contextmanager
    def turn(self, key: str, deadline: float | None = None) -> Iterator[None]:
        """The only turn of this key; `deadline`, of the monotonic clock, may end the wait early."""
        until = deadline or time.monotonic() + self._seconds
        with self._guard:
            queue = self._queues.setdefault(key, _Queue())
            if queue.length >= self._longest:
                raise Busy(queue.length)
            queue.length += 1
        try:
            if not queue.turn.acquire(timeout=max(0, until - time.monotonic())):
                raise Busy(queue.length - 1)
            try:
                yield
            finally:
                queue.turn.release()
        finally:
            with self._guard:
                queue.length -= 1
                if not queue.length:
                    del self._queues[key]


class MachineTurns(Turns):
    """The turns of machines, by UUID."""

    def __init__(self, machines: Machines, seconds: float, longest: int) -> None:
        super().__init__(seconds, longest)
        self._machines = machines

    @contextmanager
    def of(self, reference: str) -> Iterator[FoundMachine]:
        """The machine, and the only right to act on it.

        It is looked up again when the turn has come: a name may have gone to another machine.
        Callers that use the same name queue before they look it up, since libvirt may tell
        nothing of a machine while a command on it is under way. An error tells the machine, once
        it was found.
        """
        deadline = time.monotonic() + self._seconds
        with self.turn(f"called {reference}", deadline), Progress() as progress:
            while True:
                progress.machine = self._machines.find(reference)
                with self.turn(progress.machine.uuid, deadline):
                    machine = self._machines.find(reference)
                    if machine.uuid == progress.machine.uuid:
                        yield machine
                        return
                if time.monotonic() > deadline:
                    raise Busy(0)


class Places:
    """At most `limit` actions, or other things, at once.

    So that some worker is always free to answer a read.
    """

    def __init__(self, limit: int, what: str = "actions") -> None:
        self._limit = limit
        self._what = what
        self._free = BoundedSemaphore(limit)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises `TooMany` at once if every place is taken."""
        if not self._free.acquire(blocking=False):
            raise TooMany(self._limit, self._what)
        try:
            yield
        finally:
            self._free.release()
