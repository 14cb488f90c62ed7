"""A host: one libvirt, and everything that the controller has for it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock, Thread
from weakref import WeakKeyDictionary

from mc import libvirt_uri
from mc.actions.boot import BootVerbs
from mc.actions.means import Means
from mc.actions.power import Power
from mc.boot.backup import Backups
from mc.boot.control import BootControl
from mc.boot.definitions import Definitions
from mc.boot.reboots import RebootRule
from mc.boot.starts import Starts
from mc.errors import ControllerError, HostDown
from mc.hosts.attention import Attention
from mc.hosts.index import Index
from mc.hosts.link import Known, Link, Pace
from mc.hosts.sweep import Lists, Sweep
from mc.hosts.watch import Watch
from mc.machine.machines import Machine, Machines
from mc.machine.supply import Supply
from mc.machine.turns import MachineTurns, Turns
from mc.settings import HostSettings
from mc.virsh import Layout, Listing, Stream, Streams, Virsh

log = logging.getLogger(__name__)

# Seconds between two readings of the list at least, and after one that has failed.
_REST, _TRY_AGAIN = 0.02, 1.0


@dataclass(frozen=True)
class Shared:
    """What all hosts have in common."""

    turns: Turns
    streams: Streams
    pace: Pace
    index: Index
    on_command: Callable[[str, float], None]
    many: bool


class Host:
    """One libvirt, with a name of its own; `label` is what whoever set its URI calls that.

    `start` has it found out whether libvirt can be reached, and its events followed; nothing here
    waits for another host. waiting: how many may wait for turns, and for the first connection.
    """

    def __init__(
        self,
        settings: HostSettings,
        label: str,
        layout: Layout,
        backups: Backups,
        waiting: int,
        shared: Shared,
    ) -> None:
        self.name = settings.name
        self._label = label
        self.uri = settings.uri
        self.read_seconds = settings.read_seconds
        self._index = shared.index
        self._is_one_of_many = shared.many
        # What had happened when a list was begun.
        self._changes = WeakKeyDictionary[Listing, int]()
        self._closed = Event()
        self._reading = Lock()
        self._reader: Thread | None = None
        self.link = Link(
            settings.name,
            is_near=libvirt_uri.is_near(settings.uri),
            waiting=waiting,
            pace=shared.pace,
            probe=self._probe,
            on_answer=self._look,
            on_change=self._changed,
        )
        self.virsh = Virsh(
            settings.virsh,
            settings.uri,
            sessions=layout,
            read_seconds=settings.read_seconds,
            action_seconds=settings.action_seconds,
            shutdown_mode=settings.shutdown_mode,
            on_command=shared.on_command,
            gate=self.link,
        )
        self.machines = Machines(self.virsh, settings.machines)
        turns = MachineTurns(self.machines, shared.turns, settings.name, waiting)
        supply = Supply(self.machines, self.virsh)
        definitions = Definitions(self.virsh, backups, self._listen)
        self._starts = Starts(self.virsh, supply, definitions)
        self.boot = BootControl(self.virsh, definitions)
        means = Means(self.virsh, self.machines, turns, supply, self._starts, self.boot)
        self.power = Power(means)
        self.boot_verbs = BootVerbs(means)
        self._sweep = Sweep([self], settings.read_seconds, settings.read_seconds)
        # The embedded hypervisor lives inside one virsh, and shows its events to no other.
        has_events = not settings.uri.startswith("test:")
        self.watch = Watch(self, followed=not has_events)
        self._rule = RebootRule(self.machines, turns, self._starts)
        self._qemu = None
        self._streams: tuple[Attention | Stream, ...] = ()
        if has_events:
            of_this = partial(
                shared.streams.qemu_events, settings.virsh, settings.uri, name=self.name
            )
            self._qemu = Attention(of_this, self._rule, self._ended)
            events = shared.streams.domain_events(
                settings.virsh,
                settings.uri,
                on_event=self._heard,
                on_connected=self._connected,
                on_end=self._deafened,
                name=self.name,
            )
            self._streams = (self._qemu, events)

    def start(self) -> None:
        """Have it found out whether libvirt answers."""
        self._index.changed(self.name)
        self.link.start()

    def tidy(self) -> None:
        """End what has not been needed for a while; to be called every few seconds."""
        self._sweep.tidy()
        self.virsh.tidy()
        if self._qemu:
            self._qemu.tidy()

    def close(self) -> None:
        """End what is under way; every process is gone when this returns."""
        # First: what is broken off there would leave machines off.
        self._starts.close()
        self._closed.set()
        self.link.stop()
        for stream in self._streams:
            stream.close()
        self.virsh.close()
        self._sweep.close()
        self.link.close()
        self._rule.close()
        self.watch.close()
        with self._reading:
            reader = self._reader
        if reader is not None:
            reader.join()

    def silent(self) -> float:
        """Seconds since libvirt has answered a command."""
        return self.virsh.silent()

    def lists(self) -> Lists:
        """The machines, read after this was called; waits for the first connection."""
        try:
            self.link.enter()
        except ControllerError as error:
            return Lists(errors={self.name: error})
        return self._sweep.read()

    def list_all(self) -> list[Machine]:
        """The machines, by name; raises what a command does."""
        lists = self.lists()
        for error in lists.errors.values():
            raise error
        return lists.machines[self.name]

    def acted_on(self, machine: Machine) -> None:
        """Take note that something was done to a machine: not all hypervisors tell of it."""
        self.watch.heard("action", machine.name)

    def listing(self) -> Listing:
        """Begin to read the list; never waits. Raises what a command does."""
        now = self.link.now
        if now.state == "connecting":
            raise HostDown(self.name, "it is not known yet whether it answers", now.since, 1.0)
        changes = self._index.changes(self.name)
        listing = self.virsh.listing()
        self._changes[listing] = changes
        return listing

    def listed(self, listing: Listing, *, last: bool) -> list[Machine] | None:
        """The machines; None if some were just being started or stopped, but for the last try."""
        machines = self.machines.joined(*listing.result(), last=last)
        if machines is not None:
            self._index.learn(self.name, machines, self._changes.pop(listing))
        return machines

    def _probe(self) -> None:
        self.virsh.connect()

    def _look(self) -> None:
        """Find out which machines there are."""
        self.list_all()

    def _heard(self, kind: str, name: str) -> None:
        if kind == "lifecycle" and self.machines.included(name):
            self._note(name)
        if self._qemu:
            self._qemu.heard(kind, name)
        self.watch.heard(kind, name)

    def _listen(self) -> None:
        # Nobody waits for a host that is down.
        self.link.enter()
        if self._qemu:
            self._qemu.listen()

    def _connected(self) -> None:
        """From now on every event is heard; what came before may not have been."""
        self._note()
        self.watch.stream_connected()
        if self._qemu:
            self._qemu.start()

    def _deafened(self, words: str) -> None:
        self._index.changed(self.name, is_deaf=True)
        self.watch.stream_ended()
        self._ended(words)

    def _ended(self, words: str) -> None:
        """A stream ends with libvirt, or with the way to it."""
        self.link.suspect()

    def _note(self, name: str = "") -> None:
        """Have the index know of what has happened, as soon as the list can be read."""
        self._index.changed(self.name, name)
        with self._reading:
            if self._reader is None and self._is_one_of_many:
                self._reader = Thread(target=self._read, name=f"reader of {self.name}")
                self._reader.start()

    def _read(self) -> None:
        while True:
            # Events come in bursts.
            self._closed.wait(_REST)
            with self._reading:
                is_away = self._closed.is_set() or self.link.now.state == "down"
                if is_away or self._index.is_read(self.name):
                    self._reader = None
                    return
            try:
                self.list_all()
            except ControllerError as error:
                log.debug("the machines of %s are not known: %s", self.name, error)
                self._index.give_up(self.name)
                self._closed.wait(_TRY_AGAIN)

    def _changed(self, now: Known) -> None:
        if now.state == "down":
            log.warning(
                "%s: %s cannot be reached: %s (%s); it is tried again as needed",
                self._label,
                self.uri,
                now.words,
                libvirt_uri.hint(self.uri),
            )
            self.virsh.give_up_waiting()
            self._index.give_up(self.name)
        else:
            log.info("host %s is up", self.name)
        self.watch.reach_changed()
        for stream in self._streams:
            if now.state == "up":
                stream.start()
            else:
                stream.rest()
