"""Following the machines: what changes about them is told to whoever subscribes."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Lock, Thread

from mc.errors import ControllerError, Stopping
from mc.machine.machines import Machine, Machines

log = logging.getLogger(__name__)

# Seconds between the end of one reading of the list and the next, at least; so that a burst of
# events costs no more than five readings a second.
_REST = 0.2
# Seconds between two readings while no events can be relied on, and while they can: some things,
# on some hypervisors, change without one.
_POLL, _LOOK = 0.5, 5.0
# Seconds that virsh is given to connect before its silence means that nothing happens.
_CONNECTING = 5.0
# More changes than these at once are told as a whole list.
_MOST_CHANGES = 100
# Kinds of events that come again and again, and change nothing that is told of a machine.
_NOISE = frozenset(
    {
        "balloon-change",
        "block-job",
        "block-job-2",
        "block-threshold",
        "graphics",
        "job-completed",
        "memory-device-size-change",
        "memory-failure",
        "migration-iteration",
        "rtc-change",
    }
)


@dataclass(frozen=True)
class Reach:
    """Whether the list of machines can be read; if not, `trouble` says why."""

    trouble: str | None


@dataclass(frozen=True)
class Everything:
    """All machines, by name."""

    machines: Sequence[Machine]


@dataclass(frozen=True)
class Changed:
    """A machine that is new or has changed, maybe in what its list entry does not tell."""

    machine: Machine


@dataclass(frozen=True)
class Gone:
    """The machine of this UUID is no more."""

    uuid: str


News = Reach | Everything | Changed | Gone


@dataclass(eq=False)
class Subscription:
    """What a subscriber has not been told yet: that something changed, not how.

    So it is never longer than the list, and who is slow to ask is told less, but the latest.
    """

    reach: bool = True
    everything: bool = True
    uuids: dict[str, None] = field(default_factory=dict)

    def add(self, uuids: Iterable[str]) -> None:
        self.uuids.update(dict.fromkeys(uuids))
        if len(self.uuids) > _MOST_CHANGES:
            self.start_over()

    def start_over(self) -> None:
        self.everything = True
        self.uuids.clear()


class Watch:
    """Reads the list of machines when something may have changed, and tells the differences.

    It reads at each event, and from time to time; more often while there is no stream of events
    that could be relied on (`followed` says whether there is one at all). It reads only while
    there are subscribers. Events only say when to look: what is told is what the list says.
    """

    def __init__(self, machines: Machines, *, followed: bool) -> None:
        self._machines = machines
        self._followed = followed
        self._lock = Lock()
        self._wake = Condition(self._lock)
        self._told = Condition(self._lock)
        self._subscriptions: set[Subscription] = set()
        self._known: dict[str, Machine] | None = None
        self._trouble: str | None = None
        # The names in the events since the last reading, and whether to read as soon as may be.
        self._named: set[str] = set()
        self._asked = False
        # Times of the monotonic clock.
        self._read_at = float("-inf")
        self._relied_on_from = time.monotonic() + _CONNECTING
        self._closed = False
        self._thread = Thread(target=self._run, name="watch")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End it, and every wait for news; a reading under way is to be ended before."""
        self._end()
        self._thread.join()

    def heard(self, kind: str, name: str) -> None:
        """Take note of an event about the machine of this name; returns at once."""
        with self._lock:
            if self._subscriptions and kind not in _NOISE:
                self._named.add(name)
                self._ask()

    def stream_ended(self) -> None:
        """Take note that a stream of events has ended, maybe with libvirt; returns at once."""
        with self._lock:
            self._relied_on_from = time.monotonic() + _CONNECTING
            # While libvirt is away streams end all the time, and it is tried often enough.
            if self._subscriptions and self._trouble is None:
                self._ask()

    @contextmanager
    def subscription(self) -> Iterator[Subscription]:
        """What `news` is asked for; at first that is everything."""
        mine = Subscription()
        with self._lock:
            if not self._subscriptions:
                self._known, self._trouble = None, None
                self._ask()
            self._subscriptions.add(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._subscriptions.remove(mine)

    def news(self, mine: Subscription, seconds: float) -> list[News]:
        """What is new since the last call, as soon as there is any; nothing after so many seconds.

        `Reach` comes first, `Everything` next, then what changed. Raises `Stopping` when the
        watch has been closed.
        """
        with self._told:
            self._told.wait_for(lambda: self._closed or self._has_news(mine), seconds)
            if self._closed:
                raise Stopping
            return self._news(mine) if self._has_news(mine) else []

    def _has_news(self, mine: Subscription) -> bool:
        if self._known is None:
            return mine.reach and self._trouble is not None
        return mine.reach or mine.everything or bool(mine.uuids)

    def _news(self, mine: Subscription) -> list[News]:
        news: list[News] = [Reach(self._trouble)] if mine.reach else []
        mine.reach = False
        known = self._known
        if known is None:
            return news
        if mine.everything:
            news.append(Everything(list(known.values())))
        else:
            news += [Changed(known[uuid]) if uuid in known else Gone(uuid) for uuid in mine.uuids]
        mine.everything = False
        mine.uuids.clear()
        return news

    def _ask(self) -> None:
        self._asked = True
        self._wake.notify()

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            self._wake.notify_all()
            self._told.notify_all()

    def _run(self) -> None:
        while self._wait_until_due():
            self._read()

    def _wait_until_due(self) -> bool:
        """Whether there is to be another reading, as soon as it is time for it."""
        with self._wake:
            while not self._closed:
                now = time.monotonic()
                due = self._due(now)
                if due <= now:
                    return True
                self._wake.wait(None if due == float("inf") else due - now)
            return False

    def _due(self, now: float) -> float:
        if not self._subscriptions:
            return float("inf")
        if self._asked:
            return self._read_at + _REST
        relied_on = self._followed and self._trouble is None and now >= self._relied_on_from
        return self._read_at + (_LOOK if relied_on else _POLL)

    def _read(self) -> None:
        with self._lock:
            self._asked = False
            named, self._named = self._named, set()
        try:
            machines = self._machines.list_all()
        except Stopping:
            self._end()
            return
        except ControllerError as error:
            self._fail(str(error))
            return
        except Exception as error:
            trouble = f"unexpected {type(error).__name__}: the controller's log says more"
            if trouble != self._trouble:
                log.exception("the machines cannot be followed")
            self._fail(trouble)
            return
        with self._lock:
            self._tell({machine.uuid: machine for machine in machines}, named)

    def _tell(self, known: dict[str, Machine], named: set[str]) -> None:
        """Note the differences for every subscriber."""
        before, self._known = self._known, known
        self._read_at = time.monotonic()
        if self._trouble is not None:
            self._trouble = None
            self._relied_on_from = time.monotonic() + _CONNECTING
            for one in self._subscriptions:
                one.reach = True
        if before is not None:
            gone = [uuid for uuid in before if uuid not in known]
            changed = [
                uuid
                for uuid, machine in known.items()
                if before.get(uuid) != machine or machine.name in named
            ]
            for one in self._subscriptions:
                one.add([*gone, *changed])
        self._told.notify_all()

    def _fail(self, trouble: str) -> None:
        """Note that what was known is not known any more."""
        with self._lock:
            self._read_at = time.monotonic()
            for one in self._subscriptions:
                one.reach = one.reach or trouble != self._trouble
                one.start_over()
            self._known, self._trouble = None, trouble
            self._told.notify_all()
