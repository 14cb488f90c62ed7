"""Machines: their states, and finding one by its name or UUID."""

import re
from collections.abc import Callable
from dataclasses import dataclass
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
# UUID, then as a name. Only the first of these can mean another machine than the one asked for.
_LIKE_AN_ID = re.compile(r"\s*[+-]?\d+", re.ASCII)
# libvirt takes no such name, and virsh no such argument.
_IMPOSSIBLE = re.compile(r"[\0\n/]")
_LONGEST_REFERENCE = 4096
_UNKNOWN_DOMAIN = "failed to get domain"


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

    `NoSuchMachine` is raised only when libvirt's list shows that there is none: virsh's own
    `failed to get domain` may also hide a lost connection.
    """

    def __init__(self, virsh: Virsh) -> None:
        self._virsh = virsh

    def list_all(self) -> list[Machine]:
        """Every machine, by name; one that comes or goes meanwhile is left out."""
        numbers = self._virsh.domstats()
        machines = [
            Machine(entry.id, entry.name, entry.uuid, _state(numbers[entry.name]))
            for entry in self._virsh.list_all()
            if entry.name in numbers
        ]
        return sorted(machines, key=lambda machine: machine.name)

    def find(self, reference: str) -> Machine:
        """The machine that bears this name or UUID now."""
        info = self._ask(self._virsh.dominfo, reference)
        number = None if info["Id"] == "-" else int(info["Id"])
        return Machine(number, info["Name"], info["UUID"], info["State"])

    def status(self, reference: str) -> Status:
        """The state of one machine: the cheapest thing to ask for."""
        return Status(*self._ask(self._virsh.domstate, reference))

    def _ask(self, read: Callable[[str], T], reference: str) -> T:
        if _IMPOSSIBLE.search(reference) or not 0 < len(reference) <= _LONGEST_REFERENCE:
            raise NoSuchMachine(reference)
        if _LIKE_AN_ID.fullmatch(reference):
            return read(self._uuid_from_list(reference))
        try:
            return read(reference)
        except Refused as error:
            if not error.words.startswith(_UNKNOWN_DOMAIN):
                raise
            return read(self._uuid_from_list(reference))

    def _uuid_from_list(self, reference: str) -> str:
        """Raises `NoSuchMachine` if neither a UUID nor a name in libvirt's list matches."""
        entries = self._virsh.list_all()
        digits = _digits(reference)
        for entry in entries:
            if _digits(entry.uuid) == digits:
                return entry.uuid
        for entry in entries:
            if entry.name == reference:
                return entry.uuid
        raise NoSuchMachine(reference)


def _digits(uuid: str) -> str:
    """A UUID in the form in which libvirt compares them: hyphens and case do not count."""
    return uuid.replace("-", "").lower()


def _state(number: int) -> str:
    return STATES[number] if number < len(STATES) else STATES[0]
