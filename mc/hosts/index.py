"""Which machines were seen on which host: a hint where to ask, and never an answer."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Condition

from mc.machine.machines import Machine
from mc.machine.references import digits, is_like_uuid


@dataclass
class _Seen:
    """What is known of a host: UUIDs by name, None where an event has told a name only.

    keys: the UUIDs as they are compared. listed: how many there were in the list that was read
    last. changes: how many there were; as many as `read` are in that list. is_deaf: changes are not
    heard of at the moment.
    """

    uuids: dict[str, str | None] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    listed: int | None = None
    changes: int = 1
    read: int = 0
    is_deaf: bool = False

    @property
    def is_fresh(self) -> bool:
        return self.read == self.changes and not self.is_deaf


class Index:
    """Names and UUIDs of the machines of every host, as far as they were told here."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._hosts: dict[str, _Seen] = {}
        # The hosts whose lists are worth waiting for: others have not told them in time.
        self._awaited: set[str] = set()

    def changed(self, host: str, name: str = "", *, is_deaf: bool = False) -> None:
        """Take note that a host's machines may have changed: that of this name, if one is given."""
        with self._changed:
            seen = self._seen(host)
            seen.changes += 1
            seen.is_deaf = is_deaf
            self._awaited.add(host)
            if name:
                seen.uuids.setdefault(name, None)

    def changes(self, host: str) -> int:
        """What to give to `learn` with a list that is begun now."""
        with self._changed:
            return self._seen(host).changes

    def learn(self, host: str, machines: Iterable[Machine], changes: int) -> None:
        """Take note of all the machines that a host has."""
        listed: dict[str, str | None] = {machine.name: machine.uuid for machine in machines}
        with self._changed:
            seen = self._seen(host)
            seen.listed = len(listed)
            if changes < seen.changes:
                # Whoever came while it was read may not be in it.
                listed = {**{one: None for one, uuid in seen.uuids.items() if not uuid}, **listed}
            if listed != seen.uuids:
                seen.uuids = listed
                seen.keys = frozenset(digits(uuid) for uuid in listed.values() if uuid)
            seen.read = max(seen.read, changes)
            if seen.is_fresh:
                self._awaited.discard(host)
                self._changed.notify_all()

    def forget(self, host: str, reference: str) -> None:
        """Take note that a host has no machine of this name or UUID."""
        key = _key(reference)
        with self._changed:
            seen = self._seen(host)
            seen.uuids = {
                name: uuid
                for name, uuid in seen.uuids.items()
                if name != reference and not (key and uuid and digits(uuid) == key)
            }
            seen.keys = frozenset(digits(uuid) for uuid in seen.uuids.values() if uuid)

    def is_read(self, host: str) -> bool:
        """Whether all that was heard of is in the list that was read last."""
        with self._changed:
            seen = self._seen(host)
            return seen.read == seen.changes

    def give_up(self, host: str) -> None:
        """Have nobody wait for a host that does not answer."""
        with self._changed:
            self._awaited.discard(host)
            self._changed.notify_all()

    def wait_until_fresh(self, seconds: float) -> None:
        """Wait until the lists have been read that are to be; of each host once for each change."""
        if not self._awaited:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._awaited, seconds)
            self._awaited.clear()

    def bearers(self, reference: str) -> set[str]:
        """The hosts on which a machine of this name or UUID may be."""
        key = _key(reference)
        with self._changed:
            return {
                host
                for host, seen in self._hosts.items()
                if reference in seen.uuids or key in seen.keys
            }

    def count(self, host: str) -> int | None:
        """How many machines a host had when it was asked last; None if it never was."""
        with self._changed:
            return self._seen(host).listed

    def _seen(self, host: str) -> _Seen:
        return self._hosts.setdefault(host, _Seen())


def _key(reference: str) -> str | None:
    """A UUID as it is compared; None for what is none."""
    return digits(reference) if is_like_uuid(reference) else None
