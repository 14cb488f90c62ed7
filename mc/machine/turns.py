"""Who may act on a machine now."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock

from mc.errors import Busy, HostBusy, TooMany
from mc.machine.machines import FoundMachine, Known, Machines
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
        self.seconds = seconds
        self._longest = longest
        self._queues: dict[str, _Queue] = {}
        self._guard = Lock()

    @contextmanager
    def turn(
        self,
        key: str,
        deadline: float | None = None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Iterator[None]:
        """The only turn of this key.

        `deadline`, of the monotonic clock, may end the wait early. Whoever has to wait does so
        within `waiting`.
        """
        until = deadline or time.monotonic() + self.seconds
        with self._guard:
            queue = self._queues.setdefault(key, _Queue())
            if queue.length >= self._longest:
                raise Busy(queue.length)
            queue.length += 1
        try:
            if not queue.turn.acquire(blocking=False):
                with waiting():
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


class MachineTurns:
    """The turns of the machines of one host, among the turns of all hosts' machines, by UUID.

    A machine may be on two hosts, while it goes from one to the other or for good. At most
    `waiting` callers wait for turns on this host, the next gets `HostBusy`: each may be held up
    for as long as this libvirt takes for others' commands.
    """

    def __init__(self, machines: Machines, turns: Turns, host: str, waiting: int) -> None:
        self._machines = machines
        self._turns = turns
        self._host = host
        self._limit = waiting
        self._free = BoundedSemaphore(waiting)

    @contextmanager
    def of(self, reference: str) -> Iterator[FoundMachine]:
        """The machine, and the only right to act on it.

        It is looked up when the turn has come: a name may have gone to another machine since one
        has queued for that. Callers that use the same name queue before they ask libvirt, which
        may tell nothing of a machine while a command on it is under way. An error tells the
        machine, as far as it is known.
        """
        deadline = time.monotonic() + self._turns.seconds
        # No UUID has blanks, nor has a host's name.
        name = f"{self._host} called {reference}"
        with self._turns.turn(name, deadline, self._waiting), Progress() as progress:
            expected = self._machines.expected(reference)
            while True:
                progress.machine = expected
                with self._turns.turn(expected.uuid, deadline, self._waiting):
                    progress.machine = None
                    machine = progress.machine = self._machines.find(reference)
                    if machine.uuid == expected.uuid:
                        yield machine
                        return
                if time.monotonic() > deadline:
                    raise Busy(0)
                expected = Known(machine.name, machine.uuid)

    def turn(self, uuid: str) -> AbstractContextManager[None]:
        """Another turn for an action that has begun, which is not given up because many wait."""
        return self._turns.turn(uuid)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        if not self._free.acquire(blocking=False):
            raise HostBusy(self._limit)
        try:
            yield
        finally:
            self._free.release()


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
