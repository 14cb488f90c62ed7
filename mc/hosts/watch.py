"""Following the machines of a host: what changes about them is told to whoever subscribes."""

import logging
import time
from threading import Condition, Lock, Thread
from typing import Protocol

from mc.errors import ControllerError, Stopping
from mc.hosts.news import Changed, Everything, Gone, News, Reach, Subscription
from mc.machine.machines import Machine

log = logging.getLogger(__name__)

# Seconds between the end of one reading of the list and the next, at least; so that a burst of
# events costs no more than five readings a second.
_REST = 0.2
# Seconds between two readings while no events can be relied on, and while they can: some things,
# on some hypervisors, change without one.
_POLL, _LOOK = 0.5, 5.0
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


class Readable(Protocol):
    """Machines that can be read."""

    def list_all(self) -> list[Machine]:
        """Every machine, by name; raises what a command does."""


class Watch:
    """Reads the list of machines when something may have changed, and tells the differences.

    It reads at each event, and from time to time; more often while it is not `followed`, since
    events may be missed: whoever knows says so by `stream_connected` and `stream_ended`. A host
    whose machines change by this controller alone is followed from the beginning, by `heard`. It
    reads only while there are subscribers, and has a thread only then. Events only say when to
    look: what is told is what the list says.
    """

    def __init__(self, machines: Readable, *, followed: bool = False) -> None:
        self._machines = machines
        self._followed = followed
        self._lock = Lock()
        self._wake = Condition(self._lock)
        self._subscriptions: set[Subscription] = set()
        self._known: dict[str, Machine] | None = None
        self._trouble: str | None = None
        # The names in the events since the last reading, and whether to read as soon as may be.
        self._named: set[str] = set()
        self._asked = False
        self._is_reach_news = False
        # A time of the monotonic clock.
        self._read_at = float("-inf")
        self._closed = False
        # The one that reads; one that has found no subscribers any more is gone.
        self._thread: Thread | None = None

    def close(self) -> None:
        """End it, and every wait for news; a reading under way is to be ended before."""
        thread = self._end()
        if thread:
            thread.join()

    def heard(self, kind: str, name: str) -> None:
        """Take note of an event about the machine of this name; returns at once."""
        with self._lock:
            if self._subscriptions and kind not in _NOISE:
                self._named.add(name)
                self._ask()

    def stream_connected(self) -> None:
        """Take note that every event is told from now on; returns at once."""
        with self._lock:
            self._followed = True
            self._ask()

    def reach_changed(self) -> None:
        """Have it told anew whether the machines can be read; returns at once."""
        with self._lock:
            self._is_reach_news = True
            self._ask()

    def stream_ended(self) -> None:
        """Take note that events may be missed from now on, maybe with libvirt; returns at once."""
        with self._lock:
            # While libvirt is away streams end all the time, and it is tried often enough.
            if self._followed:
                self._followed = False
                self._ask()

    def subscribe(self, mine: Subscription) -> None:
        """Ring from now on when there is something for `news` to tell; at first everything is."""
        with self._lock:
            if not self._subscriptions:
                self._known, self._trouble = None, None
                self._ask()
            if self._thread is None and not self._closed:
                self._thread = Thread(target=self._run, name="watch")
                self._thread.start()
            self._subscriptions.add(mine)
            if self._closed or self._has_news(mine):
                mine.ring()

    def unsubscribe(self, mine: Subscription) -> None:
        with self._lock:
            self._subscriptions.discard(mine)
            self._wake.notify()

    def news(self, mine: Subscription) -> list[News]:
        """What is new since the last call.

        `Reach` comes first, `Everything` next, then what changed. Raises `Stopping` when the
        watch has been closed.
        """
        with self._lock:
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

    def _end(self) -> Thread | None:
        with self._lock:
            self._closed = True
            self._wake.notify()
            for one in self._subscriptions:
                one.ring()
            return self._thread

    def _run(self) -> None:
        while self._wait_until_due():
            self._read()

    def _wait_until_due(self) -> bool:
        """Whether there is to be another reading, as soon as it is time for it."""
        with self._wake:
            while self._subscriptions and not self._closed:
                now = time.monotonic()
                due = self._due()
                if due <= now:
                    return True
                self._wake.wait(due - now)
            self._thread = None
            return False

    def _due(self) -> float:
        if self._asked:
            return self._read_at + _REST
        return self._read_at + (_LOOK if self._followed and self._trouble is None else _POLL)

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
        if self._trouble is not None or self._is_reach_news:
            self._trouble, self._is_reach_news = None, False
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
        self._ring()

    def _fail(self, trouble: str) -> None:
        """Note that what was known is not known any more."""
        with self._lock:
            self._read_at = time.monotonic()
            for one in self._subscriptions:
                one.reach = one.reach or trouble != self._trouble or self._is_reach_news
                one.start_over()
            self._is_reach_news = False
            self._known, self._trouble = None, trouble
            self._ring()

    def _ring(self) -> None:
        """Tell whoever has something to ask for."""
        for one in self._subscriptions:
            if self._has_news(one):
                one.ring()
