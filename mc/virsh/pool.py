"""Several virsh sessions for one kind of work, handed out one caller at a time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, RLock

from mc.errors import NoAnswer, Stopping
from mc.virsh.session import Session


@dataclass(frozen=True)
class SessionCounts:
    """A pool's sessions: those open now; those started so far; of these, those that were lost.

    A session is lost with its connection, with its virsh, or by missing a deadline.
    """

    open: int
    started: int
    lost: int


class Pool:
    """At most `limit` sessions at once, of which at most `keep` stay open between commands.

    Up to `keep` sessions are opened as they are needed. When all are taken, a caller waits for
    one; after `patience` seconds, which no healthy read takes, it opens another, so that
    commands stuck on one machine delay nobody else.
    """

    def __init__(
        self,
        new_session: Callable[[], Session],
        *,
        keep: int,
        limit: int,
        patience: float,
        connect_seconds: float,
    ) -> None:
        self._new_session = new_session
        self._connect_seconds = connect_seconds
        self._keep = keep
        self._limit = limit
        self._patience = patience
        self._idle: list[Session] = []
        self._taken: set[Session] = set()
        self._opening = 0
        self._waiting = 0
        self._started = 0
        self._lost = 0
        self._closed = False
        # Not the condition itself, whose `with` is Python's: this is on the way of each command.
        self._lock = RLock()
        self._changed = Condition(self._lock)

    @contextmanager
    def session(self, deadline: float) -> Iterator[Session]:
        """A session of one's own until the end of the block.

        Raises `NoAnswer` if none is free or connected before the deadline, `Unreachable` if none
        can be opened, `Stopping` once the pool is closed.
        """
        session = self._take(deadline)
        try:
            yield session
        finally:
            self._give_back(session)

    def _take(self, deadline: float) -> Session:
        impatient_at = time.monotonic() + self._patience
        while True:
            session = self._idle_or_place(impatient_at, deadline)
            if session is None:
                return self._open(deadline)
            if session.fit():
                return session
            self._give_back(session)

    def _idle_or_place(self, impatient_at: float, deadline: float) -> Session | None:
        """An idle session, taken; or None, and with it the right to open one."""
        with self._lock:
            while True:
                now = time.monotonic()
                if self._closed:
                    raise Stopping
                if self._idle:
                    session = self._idle.pop()
                    self._taken.add(session)
                    return session
                if self._count() < (self._keep if now < impatient_at else self._limit):
                    self._opening += 1
                    return None
                if now >= deadline:
                    raise NoAnswer("a free virsh session")
                wake_at = min(deadline, impatient_at) if now < impatient_at else deadline
                self._waiting += 1
                self._changed.wait(wake_at - now)
                self._waiting -= 1

    def counts(self) -> SessionCounts:
        with self._lock:
            return SessionCounts(len(self._idle) + len(self._taken), self._started, self._lost)

    def _count(self) -> int:
        return len(self._idle) + len(self._taken) + self._opening

    def _open(self, deadline: float) -> Session:
        """A new session; it is known to `close` while it still connects."""
        session = None
        try:
            session = self._new_session()
        finally:
            with self._lock:
                self._opening -= 1
                if session is not None:
                    self._started += 1
                    self._taken.add(session)
                    if self._closed:
                        session.kill()
                self._changed.notify()
        try:
            session.greet(min(deadline, time.monotonic() + self._connect_seconds))
        except BaseException:
            self._give_back(session)
            raise
        return session

    def _give_back(self, session: Session) -> None:
        """Keep the session if it is of use: a surplus one only for a caller who has none yet."""
        with self._lock:
            self._taken.remove(session)
            # A caller still counts as waiting between being notified and taking a session.
            wanted = self._waiting > len(self._idle) or self._count() < self._keep
            keep = session.usable and wanted and not self._closed
            self._lost += not session.usable and not self._closed
            if keep:
                self._idle.append(session)
            self._changed.notify()
        if not keep:
            session.close()

    def close(self) -> None:
        """End every session; a command under way fails at once, in the thread that called it."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            taken = list(self._taken)
            self._changed.notify_all()
        for session in taken:
            session.kill()
        for session in idle:
            session.close()
