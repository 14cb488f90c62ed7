"""Sessions for one kind of work, handed out one caller at a time, in the order of their asking."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, RLock

from mc.errors import HostBusy, NoAnswer, Stopping, Unavailable
from mc.virsh.gate import Gate
from mc.virsh.layout import Bounds
from mc.virsh.session import Session

# Sessions of a host that may be connecting at once: sshd refuses some of more (`MaxStartups`).
_OPENED_AT_ONCE = 4
# Seconds for which requests queue for a session of a host that is well but busy.
_BUSY_SECONDS = 0.25


@dataclass(frozen=True)
class SessionCounts:
    """A pool's sessions: those open now; those started so far; of these, those that were lost.

    A session is lost with its connection, with its virsh, or by missing a deadline.
    """

    open: int
    started: int
    lost: int


@dataclass
class Shared:
    """What the pools of a host have in common.

    `waiting`: requests that may wait for a session longer than a busy host makes them.
    """

    new_session: Callable[[], Session]
    gate: Gate
    connect_seconds: float
    waiting: int
    pools: "list[Pool]" = field(default_factory=list)
    # Not a condition, whose `with` is Python's: this is on the way of each command.
    lock: RLock = field(default_factory=RLock)
    opening: int = 0
    overdue: int = 0
    closed: bool = False

    def may_open(self) -> bool:
        """Whether one more session may connect: the first one does so alone."""
        is_connected = any(one.connected for pool in self.pools for one in pool.sessions())
        return self.opening < (_OPENED_AT_ONCE if is_connected else 1)

    def wake_all(self) -> None:
        """Have all who wait seek again, and ask the gate before."""
        with self.lock:
            for pool in self.pools:
                pool.wake_all()


class Waiter:
    """Somebody who seeks a session until a deadline, and is woken when it is worth to seek again.

    One without patience, in seconds, is no request: it does not count among those that wait.
    """

    def __init__(
        self, wake: Callable[[], None], deadline: float = math.inf, patience: float | None = None
    ) -> None:
        now = time.monotonic()
        self.wake = wake
        self.deadline = deadline
        self.impatient_at = now + (patience or 0)
        self.overdue_at = math.inf if patience is None else now + _BUSY_SECONDS
        self.is_impatient = False
        self.is_overdue = False
        self.is_in_line = False
        self.handed: Session | None = None
        """What it was given while it was in line."""

    def seconds(self) -> float:
        """How long to wait if it is not woken."""
        until = self.deadline
        if not self.is_impatient:
            until = min(until, self.impatient_at)
        if not self.is_overdue:
            until = min(until, self.overdue_at)
        return max(0, until - time.monotonic())


class Pool:
    """At most so many sessions at once as its bounds say; the host's own bounds are in `shared`."""

    def __init__(self, shared: Shared, bounds: Bounds) -> None:
        self._shared = shared
        self._lock = shared.lock
        self._bounds = bounds
        # With the time since when; the last one is taken first.
        self._idle: list[tuple[float, Session]] = []
        self._taken: set[Session] = set()
        self._starting = 0
        # Nobody is in line while a session is idle.
        self._line: deque[Waiter] = deque()
        self._started = 0
        self._lost = 0
        shared.pools.append(self)

    @contextmanager
    def session(self, deadline: float, *, by_request: bool = True) -> Iterator[Session]:
        """A session of one's own until the end of the block.

        Raises `NoAnswer` if none is free or connected before the deadline, `Unreachable` if none
        can be opened, `Stopping` once all are closed; of requests, also what the gate raises, and
        `HostBusy`.
        """
        session = self._take(deadline, by_request)
        try:
            if not session.connected:
                self._greet(session, deadline)
            yield session
        finally:
            self.give_back(session)

    def _take(self, deadline: float, by_request: bool) -> Session:
        bell = Lock()
        bell.acquire()

        def ring() -> None:
            if bell.locked():
                bell.release()

        waiter = Waiter(ring, deadline, self._bounds.patience if by_request else None)
        try:
            while (session := self.seek(waiter, by_request=by_request)) is None:
                bell.acquire(timeout=waiter.seconds())
        finally:
            self.leave(waiter)
        return session

    def seek(self, waiter: Waiter, *, by_request: bool = True) -> Session | None:
        """A session that is fit or yet to connect; None: it is in line, to seek again when woken.

        It never waits. Whoever has sought is to `leave`, whatever came of it.
        """
        while True:
            if by_request:
                self._shared.gate.enter()
            with self._lock:
                session = self._free(waiter)
                if session is None and not self._may_start(waiter):
                    self._stand_in_line(waiter)
                    return None
            if session is None:
                return self._start()
            if session.fit():
                return session
            self.give_back(session)

    def _free(self, waiter: Waiter) -> Session | None:
        if self._shared.closed:
            raise Stopping
        if self._idle:
            _, session = self._idle.pop()
            self._taken.add(session)
            return session
        if time.monotonic() >= waiter.deadline:
            raise NoAnswer("a free virsh session")
        handed, waiter.handed = waiter.handed, None
        return handed

    def _may_start(self, waiter: Waiter) -> bool:
        """Whether the waiter has got the right to open a session."""
        waiter.is_impatient = time.monotonic() >= waiter.impatient_at
        most = self._bounds.limit if waiter.is_impatient else max(1, self._bounds.keep)
        may = self._count() < most and self._shared.may_open()
        if may:
            self._starting += 1
            self._shared.opening += 1
            self._leave_line(waiter)
        return may

    def _stand_in_line(self, waiter: Waiter) -> None:
        shared = self._shared
        if waiter.overdue_at < math.inf and not waiter.is_overdue:
            if shared.overdue >= shared.waiting:
                raise HostBusy(shared.waiting)
            waiter.is_overdue = time.monotonic() >= waiter.overdue_at
            shared.overdue += waiter.is_overdue
        if not waiter.is_in_line:
            waiter.is_in_line = True
            self._line.append(waiter)

    def _leave_line(self, waiter: Waiter) -> None:
        if waiter.is_in_line:
            waiter.is_in_line = False
            self._line.remove(waiter)

    def leave(self, waiter: Waiter) -> None:
        """No longer seek: what it was handed and has not taken goes to the next."""
        if not (waiter.is_in_line or waiter.is_overdue or waiter.handed):
            return
        with self._lock:
            self._leave_line(waiter)
            self._shared.overdue -= waiter.is_overdue
            waiter.is_overdue = False
            session, waiter.handed = waiter.handed, None
        if session:
            self.give_back(session)

    def _start(self) -> Session:
        """A session that is to connect; it is known to `stop` meanwhile."""
        begun = time.monotonic()
        session = None
        try:
            session = self._shared.new_session()
        except Unavailable as error:
            self.settle(error, begun)
            raise
        finally:
            with self._lock:
                self._starting -= 1
                if session:
                    self._started += 1
                    self._taken.add(session)
                    if self._shared.closed:
                        session.kill()
        return session

    def _greet(self, session: Session, deadline: float) -> None:
        begun = time.monotonic()
        error: Unavailable | None = NoAnswer("uri")
        try:
            session.greet(min(deadline, begun + self._shared.connect_seconds))
            error = None
        except Unavailable as caught:
            error = caught
            raise
        finally:
            self.settle(error, begun)

    def settle(self, error: Unavailable | None, begun: float) -> None:
        """Tell what came of a session that was to connect since the time that is given."""
        shared = self._shared
        # Whoever had little time left when it began has proved nothing.
        hasty = time.monotonic() - begun < shared.connect_seconds / 2
        try:
            if isinstance(error, NoAnswer) and hasty:
                shared.gate.suspect()
            elif not shared.closed:
                shared.gate.tried(error)
        finally:
            with self._lock:
                shared.opening -= 1
                shared.wake_all()

    def give_back(self, session: Session) -> None:
        """Hand it to who comes first; end it if it is of no use, or in the middle of a command."""
        with self._lock:
            is_fit = session.usable and not session.busy and not self._shared.closed
            if is_fit and self._line:
                waiter = self._line.popleft()
                waiter.is_in_line = False
                waiter.handed = session
                waiter.wake()
                return
            self._taken.remove(session)
            if is_fit:
                self._idle.append((time.monotonic(), session))
                return
            self._lost += not self._shared.closed
            self.wake_all()
        session.close()

    def wake_all(self) -> None:
        for waiter in self._line:
            waiter.wake()

    def spare(self, idle_since: float) -> list[Session]:
        """The idle sessions that are not to be kept: they are the pool's no more."""
        with self._lock:
            lost = [one for one in self._idle if not one[1].fit()]
            left = [one for one in self._idle if one not in lost]
            surplus = max(0, len(left) + len(self._taken) + self._starting - self._bounds.keep)
            old = [one for one in left if one[0] <= idle_since][:surplus]
            self._idle = [one for one in left if one not in old]
            self._lost += len(lost)
        return [session for _, session in lost + old]

    def stop(self) -> list[Session]:
        """Kill those that are taken; the idle ones, which are the pool's no more."""
        with self._lock:
            idle, self._idle = self._idle, []
            for session in self._taken:
                session.kill()
            self.wake_all()
        return [session for _, session in idle]

    def sessions(self) -> Iterator[Session]:
        yield from (session for _, session in self._idle)
        yield from self._taken

    def counts(self) -> SessionCounts:
        with self._lock:
            return SessionCounts(len(self._idle) + len(self._taken), self._started, self._lost)

    def _count(self) -> int:
        return len(self._idle) + len(self._taken) + self._starting
