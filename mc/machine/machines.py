"""Machines: their states, and finding one by its name or UUID."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Protocol, TypeVar

from mc.errors import NoSuchMachine, Refused, Transient
from mc.machine.reasons import reason
from mc.machine.references import digits, is_like_uuid, is_plain, is_possible, is_uuid
from mc.virsh import Listed, Virsh
from mc.virsh.commands import Stats


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T")
N = TypeVar("N", bound=_Named)

OFF = "shut off"
# virDomainState, in the words that `virsh domstate` prints.
STATES = (
    "no state",
    "running",
    "idle",
    "paused",
    "in shutdown",
    OFF,
    "crashed",
    "pmsuspended",
)

# How often the list is read to find one in which no machine was just being started or stopped.
_TRIES = 5
# Of how many names the UUID is kept in mind at most: machines may be renamed for ever.
_MOST_HINTS = 10_000
# What virsh says if it finds no domain, and libvirt if one is gone by the next call.
_UNKNOWN_DOMAIN = ("failed to get domain", "Domain not found")


@dataclass(frozen=True)
class Machine:
    """What libvirt says of a machine now; `id` is None when it is off."""

    id: int | None
    name: str
    uuid: str
    state: str

    @property
    def power(self) -> str:
        return power(self.state)


@dataclass(frozen=True)
class FoundMachine(Machine):
    """A machine that was looked up on its own: libvirt's number was read before its state.

    reason: for the state; None if it is off, which nothing depends on.
    persistent: one that is not is gone when it is off.
    """

    reason: str | None
    persistent: bool


@dataclass(frozen=True)
class Known:
    """Which machine is meant, as far as it is known; `name` None if it is not."""

    name: str | None
    uuid: str


@dataclass(frozen=True)
class Status:
    """A machine's state and the reason for it, in libvirt's words."""

    state: str
    reason: str

    @property
    def power(self) -> str:
        return power(self.state)


def power(state: str) -> str:
    """`on` for every state in which the machine has a hypervisor process, else `off`."""
    return "off" if state == OFF else "on"


class Machines:
    """Reads machines. A reference is a name or a UUID, never libvirt's running number.

    Machines whose names match none of the `patterns` (fnmatch's, case counts) do not exist here;
    without patterns all do.

    `NoSuchMachine` is raised only when libvirt's list shows that there is none, or the patterns
    leave out whatever bears the name: virsh's own `failed to get domain` may also hide a lost
    connection.
    """

    def __init__(self, virsh: Virsh, patterns: Sequence[str] = ()) -> None:
        self._virsh = virsh
        self._patterns = tuple(patterns)
        # The UUIDs that names had when they were seen last: where to look first, no more.
        self._uuids: dict[str, str] = {}

    def included(self, name: str) -> bool:
        """Whether the patterns let a machine of this name exist."""
        return not self._patterns or any(fnmatchcase(name, one) for one in self._patterns)

    def list_all(self) -> list[Machine]:
        """Every machine, by name; one that comes or goes meanwhile is left out.

        It takes two commands, and another try where a machine was started or stopped in between.
        """
        machines = None
        for tries_left in reversed(range(_TRIES)):
            numbers = self._virsh.domstats()
            machines = self.joined(self._virsh.list_all(), numbers, last=not tries_left)
            if machines is not None:
                break
        return machines or []

    def joined(
        self, entries: Sequence[Listed], numbers: Mapping[str, int], *, last: bool
    ) -> list[Machine] | None:
        """Every machine, by name, from libvirt's list and the numbers of the states by name.

        None where one was started or stopped in between, unless this was the `last` try.
        """
        machines = [
            Machine(entry.id, entry.name, entry.uuid, _state(numbers[entry.name]))
            for entry in entries
            if entry.name in numbers and self.included(entry.name)
        ]
        if not last and any((one.id is None) != (one.state == OFF) for one in machines):
            return None
        self._uuids = {one.name: one.uuid for one in machines}
        machines.sort(key=attrgetter("name"))
        return machines

    def find(self, reference: str) -> FoundMachine:
        """The machine that bears this name or UUID now.

        Two round trips to libvirt where it is off, three where it is on; one more for a name that
        was never seen before, two for a machine that is transient.
        """
        found = self._by_hint(reference, self._whole)
        if found is None and self._ask_for_hint(reference):
            found = self._by_hint(reference, self._whole)
        if found is None:
            found = self._whole(self._uuid_from_list(reference))
        self._keep_in_mind(found.name, found.uuid)
        return found

    def named(self, name: str) -> FoundMachine:
        """The machine that bears this name now; another machine's UUID may be spelled so."""
        if not is_like_uuid(name):
            return self.find(name)
        for entry in self._virsh.list_all():
            if entry.name == name:
                return self.find(entry.uuid)
        raise NoSuchMachine(name)

    def status(self, reference: str) -> Status:
        """The state of one machine: the cheapest thing to ask for, by one command."""
        # virsh tells no name with the state. Where that is plain, or all are included, none is
        # needed.
        if is_plain(reference) or (is_uuid(reference) and not self._patterns):
            self._check(reference)
            status = _known(lambda: self._domstate(reference))
        else:
            stats = self._by_hint(reference, self._virsh.domstats_of)
            status = _status(stats) if stats else None
        return status or self._domstate(self._uuid_from_list(reference))

    def expected(self, reference: str) -> Known:
        """Which machine is probably meant: a hint, for whoever is to `find` it.

        libvirt is asked only where there is none yet.
        """
        self._check(reference)
        uuid = self._hint(reference)
        if uuid is None:
            uuid = self._ask_for_hint(reference) or self._uuid_from_list(reference)
        names = (name for name, of in self._uuids.copy().items() if of == uuid)
        return Known(next(names, None), uuid)

    def number(self, uuid: str) -> int | None:
        """libvirt's number of this run of the machine; None when it is off."""
        return self._ask(uuid, self._virsh.domid)

    def lasting_state(self, uuid: str) -> str:
        """The state of a machine of which something is left once it is off; else `Transient`.

        libvirt keeps the next configuration of a running machine that was undefined, and gives it
        up with the run.
        """
        stats = self._ask(uuid, self._virsh.domstats_if_persistent)
        if stats is None:
            raise Transient
        return _state(stats.state)

    def _ask(self, uuid: str, read: Callable[[str], T]) -> T:
        """What `read` says of the machine of this UUID."""
        try:
            return read(uuid)
        except Refused as error:
            if not _is_unknown(error):
                raise
        return read(self._uuid_from_list(uuid))

    def _whole(self, uuid: str) -> FoundMachine:
        number = self._virsh.domid(uuid)
        if number is None:
            name = self._virsh.domname(uuid)
            # libvirt keeps nothing of a transient machine that is off.
            return FoundMachine(None, name, uuid, OFF, None, persistent=True)
        stats = self._virsh.domstats_if_persistent(uuid)
        persistent = stats is not None
        stats = stats or self._virsh.domstats_of(uuid)
        status = _status(stats)
        number = None if status.state == OFF else number
        return FoundMachine(number, stats.name, uuid, status.state, status.reason, persistent)

    def _domstate(self, reference: str) -> Status:
        return Status(*self._virsh.domstate(reference))

    def _by_hint(self, reference: str, read: Callable[[str], N]) -> N | None:
        """What `read` says of the machine that is expected; None if that is not the one meant."""
        self._check(reference)
        uuid = self._hint(reference)
        found = _known(lambda: read(uuid)) if uuid else None
        # virsh takes a UUID that no machine has for a name.
        if found is None or found.name == uuid:
            return None
        meant = self.included(found.name) if is_uuid(reference) else found.name == reference
        return found if meant else None

    def _hint(self, reference: str) -> str | None:
        """The UUID to look for first."""
        return reference.lower() if is_uuid(reference) else self._uuids.get(reference)

    def _ask_for_hint(self, reference: str) -> str | None:
        """The UUID of the machine of this name, None where virsh cannot tell."""
        uuid = _known(lambda: self._virsh.domuuid(reference)) if is_plain(reference) else None
        if uuid is not None:
            self._keep_in_mind(reference, uuid)
        return uuid

    def _keep_in_mind(self, name: str, uuid: str) -> None:
        if len(self._uuids) >= _MOST_HINTS:
            self._uuids = {}
        self._uuids[name] = uuid

    def _check(self, reference: str) -> None:
        """Raises `NoSuchMachine` where none could bear this name or UUID."""
        if not is_possible(reference) or not (self.included(reference) or is_like_uuid(reference)):
            raise NoSuchMachine(reference)

    def _uuid_from_list(self, reference: str) -> str:
        """Raises `NoSuchMachine` if neither a name nor a UUID in libvirt's list matches."""
        entries = [entry for entry in self._virsh.list_all() if self.included(entry.name)]
        by_uuid = {digits(entry.uuid): entry.uuid for entry in entries}
        by_name = self._uuids = {entry.name: entry.uuid for entry in entries}
        uuid = by_name.get(reference) or by_uuid.get(digits(reference))
        if uuid is None:
            raise NoSuchMachine(reference)
        return uuid


def _known(read: Callable[[], T]) -> T | None:
    """What `read` says; None where virsh knows no such machine, which proves nothing."""
    try:
        return read()
    except Refused as error:
        if _is_unknown(error):
            return None
        raise


def _is_unknown(error: Refused) -> bool:
    return any(words in error.words for words in _UNKNOWN_DOMAIN)


def _state(number: int) -> str:
    return STATES[number] if number < len(STATES) else STATES[0]


def _status(stats: Stats) -> Status:
    return Status(_state(stats.state), reason(stats.state, stats.reason))
