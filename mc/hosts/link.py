"""Whether a host can be reached: what is known, and one prober who finds out."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import SystemRandom
from threading import Condition, Event, Thread
from typing import Literal

from mc.errors import HostBusy, HostDown, NoAnswer, Stopping, Unavailable

log = logging.getLogger(__name__)

State = Literal["connecting", "up", "down"]

# Seconds between two tries to reach a host that is down: a libvirt of this host is asked often,
# since that costs nothing but a process; the pauses for another one grow.
_NEAR_PAUSE, _FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 1.0, 15.0
# Parts of a pause by which it is shorter at random, so that hosts are not tried all at once.
_JITTER = 0.3
_RANDOM = SystemRandom()
# Seconds that a request waits for the first connection.
_PATIENCE = 6.0


@dataclass(frozen=True)
class Known:
    """What is known of a host, since when (seconds since 1970), and libvirt's words if down."""

    state: State
    since: float
    words: str = ""


class Pace:
    """At most so many begin at once; one that takes more than a while counts no more.

    Logins cost this host processor time at first. A host that does not answer costs none, and is
    not to hold up the others.
    """

    def __init__(self, most: int = 8, seconds: float = 0.5) -> None:
        self._most = most
        self._seconds = seconds
        self._changed = Condition()
        self._began: list[float] = []

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._changed:
            while (pause := self._pause()) > 0:
                self._changed.wait(pause)
            began = time.monotonic()
            self._began.append(began)
        try:
            yield
        finally:
            with self._changed:
                self._began.remove(began)
                self._changed.notify()

    def _pause(self) -> float:
        """Seconds until there is room; 0 or less if there is."""
        recent = sorted(self._began)[-self._most :]
        return recent[0] + self._seconds - time.monotonic() if len(recent) == self._most else 0.0


class Link:
    """`connecting`, `up` or `down`, since when, and libvirt's words if it is down.

    The gate of the host's virsh: while the host is down nobody waits for it but one prober, the
    `probe` of which opens a session and asks libvirt something. `on_answer` is called by the prober
    after that, and may take its time; `on_change`, after each change of the state, may not.
    So many requests may be `waiting` for the first connection.
    """

    def __init__(
        self,
        name: str,
        *,
        is_near: bool,
        waiting: int = 8,
        pace: Pace,
        probe: Callable[[], None],
        on_answer: Callable[[], None],
        on_change: Callable[[Known], None],
    ) -> None:
        self._name = name
        self._is_near = is_near
        self._most_waiting = waiting
        self._pace = pace
        self._probe = probe
        self._on_answer = on_answer
        self._on_change = on_change
        self._changed = Condition()
        self._closed = False
        self._asked = Event()
        self._prober: Thread | None = None
        self.waiting = 0
        """Requests that wait for the first connection."""
        self._refuses = False
        self._next_at = time.monotonic()
        self.now = Known("connecting", time.time())

    def start(self) -> None:
        """Have the prober find out."""
        self.suspect()

    def stop(self) -> None:
        """Nothing changes any more: what fails from now on says nothing of the host."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._asked.set()

    def close(self) -> None:
        """End the prober; what it waits for is to be ended before."""
        self.stop()
        prober = self._prober
        if prober is not None:
            prober.join()

    def enter(self) -> None:
        """Let a command through. Raises `HostDown`, or `HostBusy` if too many wait for it to be up.

        A libvirt of this host that refuses does so at once, and is asked by each request: what is
        said of it is of now.
        """
        if self.now.state == "up":
            return
        with self._changed:
            if self.now.state == "connecting":
                self._wait()
            if self.now.state != "down" or (self._is_near and self._refuses):
                return
            known, pause = self.now, max(1.0, self._next_at - time.monotonic())
        raise HostDown(self._name, known.words, known.since, pause)

    def _wait(self) -> None:
        if self.waiting >= self._most_waiting:
            raise HostBusy(self._most_waiting)
        self.waiting += 1
        try:
            self._changed.wait_for(
                lambda: self.now.state != "connecting" or self._closed, _PATIENCE
            )
        finally:
            self.waiting -= 1
        if self._closed:
            raise Stopping

    def tried(self, error: Unavailable | None) -> None:
        """Take note that opening a session has failed, or has succeeded."""
        if error is not None and self.now.state != "up":
            self._fail(error)
            return
        if error is not None or self.now.state != "up":
            # One login of many may have been refused, which says nothing of the others; and a host
            # that is back is to be asked for more than this session.
            self.suspect()
        if error is None:
            self._set("up")

    def suspect(self) -> None:
        """Have the prober look at once whether libvirt answers; returns at once."""
        with self._changed:
            if self._closed:
                return
            self._asked.set()
            if self._prober is None:
                self._prober = Thread(target=self._run, name=f"prober of {self._name}")
                self._prober.start()

    def _run(self) -> None:
        pause = _NEAR_PAUSE if self._is_near else _FIRST_PAUSE
        while not self._closed:
            self._asked.clear()
            if self._is_answered() and self._is_done():
                return
            with self._changed:
                self._next_at = time.monotonic() + pause
            self._asked.wait(pause * _RANDOM.uniform(1 - _JITTER, 1))
            pause = pause if self._is_near else min(2 * pause, _LONGEST_PAUSE)

    def _is_answered(self) -> bool:
        try:
            with self._pace.turn():
                self._probe()
            self._set("up")
            self._on_answer()
            return True
        except Stopping:
            return False
        except Unavailable as error:
            self._fail(error)
        except Exception:
            log.exception("host %s cannot be tried", self._name)
        return False

    def _is_done(self) -> bool:
        """Whether the prober may end: nobody has asked it since it began to look."""
        with self._changed:
            if self._asked.is_set() and not self._closed:
                return False
            self._prober = None
            return True

    def _fail(self, error: Unavailable) -> None:
        self._refuses = not isinstance(error, NoAnswer)
        self._set("down", str(error))

    def _set(self, state: State, words: str = "") -> None:
        with self._changed:
            if self._closed:
                return
            before = self.now
            since = before.since if state == before.state else time.time()
            self.now = Known(state, since, words)
            self._changed.notify_all()
        if state != before.state:
            # The latest, whoever comes first.
            self._on_change(self.now)
