"""Reading the lists of many hosts at once, by one thread: that of the first who asks."""

import select
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Protocol

from mc.errors import ControllerError, NoAnswer
from mc.machine.machines import Machine
from mc.virsh import Listing

# How often a list is read to find one in which no machine was just being started or stopped.
_TRIES = 5


class Listed(Protocol):
    """A host, as far as its list is concerned."""

    name: str

    def listing(self) -> Listing:
        """Begin to read the list; never waits. Raises what a command does."""

    def listed(self, listing: Listing, *, last: bool) -> list[Machine] | None:
        """The machines; None if the list is to be read again, unless this was the last try."""


@dataclass
class Lists:
    """What came: the machines of each host by its name, or what was wrong with it."""

    machines: dict[str, list[Machine]] = field(default_factory=dict)
    errors: dict[str, ControllerError] = field(default_factory=dict)


class Sweep:
    """Reads the lists of these hosts, all at once and one sweep at a time.

    Whoever asks gets what was read by one sweep that began after that; those who ask while one is
    on share the next, and one of them reads it. A host that has not answered within `seconds` is an
    error in the answer, `NoAnswer`; what it has begun is read on by the next sweep, until
    `read_seconds` have passed.
    """

    def __init__(self, hosts: Sequence[Listed], seconds: float, read_seconds: float) -> None:
        self._hosts = hosts
        self._seconds = seconds
        self._read_seconds = read_seconds
        self._changed = Condition()
        self._begun = self._done = 0
        self._lists = Lists()
        # Readings that were too late for the last sweep, and when each began.
        self._late: dict[str, tuple[Listing, float]] = {}

    def read(self) -> Lists:
        with self._changed:
            mine = self._begun + 1
            self._changed.wait_for(lambda: self._done >= mine or self._done == self._begun)
            if self._done >= mine:
                return self._lists
            self._begun += 1
        reading = _Reading(self._hosts, self._late, self._seconds, self._read_seconds)
        try:
            lists = reading.lists()
        except BaseException:
            with self._changed:
                # Whoever waits for it is to read another one.
                self._begun = self._done
                self._changed.notify_all()
            raise
        with self._changed:
            self._lists = lists
            self._done = self._begun
            self._changed.notify_all()
        return lists

    def tidy(self) -> None:
        """Give up what is overdue: while a host is down there is no sweep to do so.

        A session that is still connecting keeps others of its host from being opened.
        """
        with self._changed:
            if self._done != self._begun:
                return
            for name, late in list(self._late.items()):
                if _is_given_up(*late, self._read_seconds):
                    del self._late[name]

    def close(self) -> None:
        """Give up what is late. Sessions are to be ended before, so that no sweep lasts."""
        with self._changed:
            self._changed.wait_for(lambda: self._done == self._begun)
            for listing, _ in self._late.values():
                listing.close()
            self._late.clear()


@dataclass(eq=False)
class _One:
    """The list of one host being read, since `began`; `is_old`: it was begun by an earlier sweep.

    descriptors: those that are polled for it.
    """

    host: Listed
    listing: Listing
    began: float
    is_old: bool = False
    descriptors: tuple[int, ...] = ()


class _Reading:
    """One sweep."""

    def __init__(
        self,
        hosts: Sequence[Listed],
        late: dict[str, tuple[Listing, float]],
        seconds: float,
        read_seconds: float,
    ) -> None:
        self._hosts = hosts
        self._late = late
        self._until = time.monotonic() + seconds
        self._read_seconds = read_seconds
        self._lists = Lists()
        self._tries = Counter[str]()
        self._poll = select.poll()
        self._by_descriptor: dict[int, _One] = {}

    def lists(self) -> Lists:
        for host in self._hosts:
            self._begin(host)
        # Who was late for the last sweep is not waited for again.
        while self._is_awaited() and (remaining := self._until - time.monotonic()) > 0:
            for descriptor, _ in self._poll.poll(remaining * 1000):
                one = self._by_descriptor.get(descriptor)
                # Another of its descriptors may have been the last.
                if one is not None:
                    self._proceed(one)
        for one in set(self._by_descriptor.values()):
            self._lists.errors[one.host.name] = NoAnswer("list")
            if not _is_given_up(one.listing, one.began, self._read_seconds):
                self._late[one.host.name] = one.listing, one.began
        return self._lists

    def _is_awaited(self) -> bool:
        return any(not one.is_old for one in self._by_descriptor.values())

    def _begin(self, host: Listed) -> None:
        try:
            late = self._late.pop(host.name, None)
            if late is None:
                one = _One(host, host.listing(), time.monotonic())
            elif _is_given_up(*late, self._read_seconds):
                raise NoAnswer("list")
            else:
                # What it tells is older than the question, so it is read once more after that.
                one = _One(host, *late, is_old=True)
        except ControllerError as error:
            self._lists.errors[host.name] = error
            return
        self._proceed(one)

    def _proceed(self, one: _One) -> None:
        """Take what has come of a list, and do what follows if that is all of it."""
        is_over = one.listing.proceed()
        self._follow(one, () if is_over else one.listing.descriptors)
        if not is_over:
            return
        try:
            machines = None if one.is_old else self._listed(one)
        except ControllerError as error:
            self._lists.errors[one.host.name] = error
            return
        if machines is None:
            self._begin(one.host)
        else:
            self._lists.machines[one.host.name] = machines

    def _listed(self, one: _One) -> list[Machine] | None:
        self._tries[one.host.name] += 1
        return one.host.listed(one.listing, last=self._tries[one.host.name] >= _TRIES)

    def _follow(self, one: _One, descriptors: tuple[int, ...]) -> None:
        """Poll these for it from now on."""
        if descriptors == one.descriptors:
            return
        for descriptor in one.descriptors:
            # One that was closed meanwhile may be somebody else's by now.
            if self._by_descriptor.get(descriptor) is one:
                del self._by_descriptor[descriptor]
                self._poll.unregister(descriptor)
        for descriptor in descriptors:
            self._by_descriptor[descriptor] = one
            self._poll.register(descriptor, select.POLLIN)
        one.descriptors = descriptors


def _is_given_up(listing: Listing, began: float, seconds: float) -> bool:
    """Whether it is of no use to read on after so many seconds; then its session is ended."""
    if time.monotonic() < began + seconds:
        return False
    listing.close()
    return True
