"""Every host, and which of them a machine is on."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import TypeVar

from mc.errors import (
    Ambiguous,
    Away,
    ControllerError,
    NoSuchHost,
    NoSuchMachine,
    Stopping,
    Unavailable,
)
from mc.hosts.host import Host
from mc.hosts.index import Index
from mc.hosts.shares import Shares
from mc.hosts.sweep import Lists, Sweep
from mc.machine import migration
from mc.machine.machines import FoundMachine

T = TypeVar("T")

_CLOSED_AT_ONCE = 32
# Seconds between two looks at what is not needed any more.
_TIDY_SECONDS = 5.0
# Seconds that a request waits for lists to be read after something has happened.
_FRESH_SECONDS = 0.25


class Hosts:
    """The hosts, by name, and the machines of them all.

    A machine without a host is one that there is once only. Where it is the index says, which may
    be wrong: the host itself confirms it, and if it does not, all are asked.
    """

    def __init__(
        self, hosts: Sequence[Host], index: Index, workers: Shares, list_seconds: float
    ) -> None:
        self.all = tuple(sorted(hosts, key=lambda host: host.name))
        self._by_name = {host.name: host for host in hosts}
        self._index = index
        self._workers = workers
        self._closed = Event()
        self._caretaker = Thread(target=self._tidy, name="caretaker")
        self._patience = max(host.read_seconds for host in hosts)
        self._sweep = Sweep(self.all, list_seconds, self._patience)

    def start(self) -> None:
        """Have it found out which hosts answer."""
        for host in self.all:
            host.start()
        self._caretaker.start()

    def _tidy(self) -> None:
        while not self._closed.wait(_TIDY_SECONDS):
            self._sweep.tidy()
            for host in self.all:
                host.tidy()

    def close(self) -> None:
        """End everything that is under way on any of them."""
        self._closed.set()
        if self._caretaker.ident is not None:
            self._caretaker.join()
        with ThreadPoolExecutor(_CLOSED_AT_ONCE) as threads:
            list(threads.map(Host.close, self.all))
        self._sweep.close()

    @property
    def many(self) -> bool:
        return len(self.all) > 1

    def named(self, name: str) -> Host:
        """Raises `NoSuchHost`."""
        try:
            return self._by_name[name]
        except KeyError:
            raise NoSuchHost(name) from None

    def of(self, name: str | None) -> tuple[Host, ...]:
        """The host of this name, or all of them."""
        return self.all if name is None else (self.named(name),)

    def count(self, host: Host) -> int | None:
        """How many machines a host had when it told last; None if it never did."""
        return self._index.count(host.name)

    def lists(self, name: str | None = None) -> Lists:
        """The machines of the host of this name, or of all, as far as these answer in time."""
        hosts = self.of(name)
        lists = self._sweep.read() if len(hosts) > 1 else hosts[0].lists()
        for missing, error in lists.errors.items():
            self._blame(self._by_name[missing], error)
        return lists

    def ask(self) -> None:
        """Have a host say something, the one first that did last. Raises what the last one did."""
        until = time.monotonic() + self._patience
        for host in sorted(self.all, key=lambda host: (host.link.now.state != "up", host.silent())):
            try:
                host.virsh.hostname()
                return
            except Unavailable as error:
                trouble = error
            if time.monotonic() > until:
                break
        raise trouble

    def at(self, reference: str, name: str | None, do: Callable[[Host], T]) -> T:
        """What `do` returns for the host of this name; if None is given, for that of the machine.

        It is done again where the machine turns out to be elsewhere, if nothing was done before.
        Raises `Ambiguous` if there are several, and `Away` if there may be one on a host that does
        not answer, beside what `do` does.
        """
        if name is not None or not self.many:
            return self._done(self.of(name)[0], do)
        host = self._holder(reference)
        try:
            return self._done(host, do)
        except NoSuchMachine as error:
            # One that was found and has gone since was found.
            if error.uuid is not None or error.done:
                raise
            self._index.forget(host.name, reference)
        return self._done(self._holder(reference), do)

    def _done(self, host: Host, do: Callable[[Host], T]) -> T:
        try:
            with self._workers.of(host):
                return do(host)
        except ControllerError as error:
            self._blame(host, error)
            raise

    def _blame(self, host: Host, error: ControllerError) -> None:
        """Have an error tell whose it is."""
        error.host = host.name
        if host.link.now.state == "down":
            error.since = host.link.now.since

    def _holder(self, reference: str) -> Host:
        """The host that has the machine."""
        self._index.wait_until_fresh(_FRESH_SECONDS)
        holder = self._only(reference, self._index.bearers(reference))
        if holder is not None:
            return holder
        lists = self._sweep.read()
        holder = self._only(reference, self._index.bearers(reference) & lists.machines.keys())
        if holder is not None:
            return holder
        if lists.errors:
            raise Away(f"no host that answers has a machine {reference!r}", sorted(lists.errors))
        raise NoSuchMachine(reference)

    def _only(self, reference: str, bearers: set[str]) -> Host | None:
        """The only host of these that has the machine; where several have it, that it runs on."""
        if len(bearers) == 1:
            return self._by_name[bearers.pop()]
        found: dict[str, FoundMachine] = {}
        away: list[Unavailable] = []
        for name in sorted(bearers):
            try:
                found[name] = self._by_name[name].machines.find(reference)
            except NoSuchMachine:
                self._index.forget(name, reference)
            except Stopping:
                raise
            except Unavailable as error:
                self._blame(self._by_name[name], error)
                away.append(error)
        at = [(name, machine.uuid) for name, machine in found.items()]
        if len({machine.uuid for machine in found.values()}) > 1:
            raise Ambiguous(reference, at, "each a machine of its own")
        # While a machine is being migrated both hosts have it, and one only is to be asked.
        active = [
            name
            for name, one in found.items()
            if one.id is not None and not migration.is_on_its_way(one)
        ]
        if len(active) == 1:
            return self._by_name[active[0]]
        if away:
            raise away[0]
        if len(found) > 1:
            raise Ambiguous(reference, at, "and runs on " + ("both" if active else "none of them"))
        return self._by_name[at[0][0]] if at else None
