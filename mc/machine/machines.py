"""Machines: their states, and finding one by its name or UUID."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from mc.errors import NoSuchMachine, Refused
from mc.virsh import Virsh

T = TypeVar("T")

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

# virsh tries a reference as a number first (strtol: blanks and a sign may precede), then as a
# UUID (hyphens and blanks may stand anywhere), then as a name. What it could take for one of the
# former is looked up in the list, and so is a name that cannot be given to it.
_LIKE_AN_ID = re.compile(r"\s*[+-]?\d+", re.ASCII)
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f]")
_LIKE_A_UUID = re.compile(r"[\s-]*([0-9a-f][\s-]*){32}", re.ASCII | re.I)
# libvirt takes no such name, and virsh no such argument.
_IMPOSSIBLE = re.compile(r"[\0\n/]")
_LONGEST_REFERENCE = 4096
# How often the list is read to find one in which no machine was just being started or stopped.
_TRIES = 5
# What virsh says if it finds no domain, and libvirt if one is gone by the next call.
_UNKNOWN_DOMAIN = ("failed to get domain", "Domain not found")
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.I)


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
    """A machine that was looked up on its own.

    One that is not `persistent` is gone when it is off; one with a `saved` memory image goes on
    from there at its next start.
    """

    persistent: bool
    saved: bool


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

    def included(self, name: str) -> bool:
        """Whether the patterns let a machine of this name exist."""
        return not self._patterns or any(fnmatchcase(name, one) for one in self._patterns)

    def list_all(self) -> list[Machine]:
        """Every machine, by name; one that comes or goes meanwhile is left out.

        It takes two commands, and another try where a machine was started or stopped in between.
        """
        for _ in range(_TRIES):
            numbers = self._virsh.domstats()
            machines = [
                Machine(entry.id, entry.name, entry.uuid, _state(numbers[entry.name]))
                for entry in self._virsh.list_all()
                if entry.name in numbers and self.included(entry.name)
            ]
            if all((one.id is None) == (one.state == OFF) for one in machines):
                break
        return sorted(machines, key=lambda machine: machine.name)

    def count(self) -> dict[str, int]:
        """How many machines are in each state, by one command."""
        numbers = self._virsh.domstats()
        found = Counter(_state(number) for name, number in numbers.items() if self.included(name))
        return {state: found[state] for state in STATES}

    def find(self, reference: str) -> FoundMachine:
        """The machine that bears this name or UUID now."""
        return self._ask(self._dominfo, reference)

    def named(self, name: str) -> FoundMachine:
        """The machine that bears this name now; another machine's UUID may be spelled so."""
        if not _LIKE_A_UUID.fullmatch(name):
            return self.find(name)
        for entry in self._virsh.list_all():
            if entry.name == name:
                return self.find(entry.uuid)
        raise NoSuchMachine(name)

    def status(self, reference: str) -> Status:
        """The state of one machine: the cheapest thing to ask for."""
        return self._ask(self._domstate, reference)

    def _dominfo(self, reference: str) -> FoundMachine:
        info = self._virsh.dominfo(reference)
        if not self.included(info["Name"]):
            raise NoSuchMachine(reference)
        number = None if info["Id"] == "-" else int(info["Id"])
        return FoundMachine(
            number,
            info["Name"],
            info["UUID"],
            info["State"],
            persistent=info["Persistent"] == "yes",
            saved=info["Managed save"] == "yes",
        )

    def _domstate(self, reference: str) -> Status:
        # virsh tells no name with the state. A name needs none: `_ask` has seen that it matches.
        if self._patterns and _CANONICAL_UUID.fullmatch(reference):
            self._dominfo(reference)
        return Status(*self._virsh.domstate(reference))

    def _ask(self, read: Callable[[str], T], reference: str) -> T:
        if not self._conceivable(reference):
            raise NoSuchMachine(reference)
        if not _ambiguous(reference):
            try:
                return read(reference)
            except NoSuchMachine:
                pass  # The UUID of a machine that is left out may be the name of one that is not.
            except Refused as error:
                if not any(words in error.words for words in _UNKNOWN_DOMAIN):
                    raise
        return read(self._uuid_from_list(reference))

    def _conceivable(self, reference: str) -> bool:
        """Whether a machine of this name or UUID could exist at all."""
        if _IMPOSSIBLE.search(reference) or not 0 < len(reference) <= _LONGEST_REFERENCE:
            return False
        return self.included(reference) or bool(_LIKE_A_UUID.fullmatch(reference))

    def _uuid_from_list(self, reference: str) -> str:
        """Raises `NoSuchMachine` if neither a name nor a UUID in libvirt's list matches."""
        entries = [entry for entry in self._virsh.list_all() if self.included(entry.name)]
        by_uuid = {_digits(entry.uuid): entry.uuid for entry in entries}
        by_name = {entry.name: entry.uuid for entry in entries}
        uuid = by_name.get(reference) or by_uuid.get(_digits(reference))
        if uuid is None:
            raise NoSuchMachine(reference)
        return uuid


def _ambiguous(reference: str) -> bool:
    """Whether virsh might take a name for something else than that name."""
    if _CANONICAL_UUID.fullmatch(reference):
        return False
    return bool(
        _LIKE_AN_ID.fullmatch(reference)
        or _LIKE_A_UUID.fullmatch(reference)
        or _UNSPEAKABLE.search(reference)
    )


def _digits(uuid: str) -> str:
    """A UUID as it is compared: hyphens and case do not count."""
    return uuid.replace("-", "").lower()


def _state(number: int) -> str:
    return STATES[number] if number < len(STATES) else STATES[0]
