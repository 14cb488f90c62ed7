"""What is told about the machines of a host, and what a subscriber has still to be told."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mc.machine.machines import Machine

# More changes than these at once are told as a whole list.
_MOST_CHANGES = 100


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
    """What a watch has not told a subscriber yet: that something changed, not how.

    So it is never longer than the list, and who is slow to ask is told less, but the latest.
    ring: what the watch calls when there is news; it is not to block.
    """

    ring: Callable[[], None]
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
