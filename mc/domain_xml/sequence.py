"""A boot order as a value: which entries, by which numbers, and a text form to store it in."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import quote, unquote

Kind = Literal["device", "os"]

# libvirt reads a place into an unsigned int.
_LARGEST = (1 << 32) - 1
OS_WORDS = ("hd", "network", "cdrom", "fd")
"""What `<boot dev>` can say."""


@dataclass(frozen=True)
class Order:
    """What is tried in turn.

    kind: `device` for `<boot order='N'/>` in devices, `os` for `<os><boot dev='...'/></os>`.
    places: names with their numbers, ascending; of devices, or the words of `<boot dev>`.
    labels: what is tried in turn in the words of the JSON; not part of the value.
    """

    kind: Kind
    places: tuple[tuple[str, int], ...]
    labels: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, kind: Kind, names: Iterable[str]) -> Self:
        """The names numbered from 1."""
        return cls(kind, tuple((name, number) for number, name in enumerate(names, 1)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names in turn, each once: where a word is repeated libvirt goes by its last place."""
        last_first = dict.fromkeys(name for name, _ in reversed(self.places))
        return tuple(reversed(last_first))

    def __str__(self) -> str:
        """Printable ASCII that needs no escape in XML and no `=` or space inside a name.

        >>> str(Order("device", (("disk:vda", 1), ("hostdev:a b=c", 7))))
        'device disk:vda=1 hostdev:a%20b%3Dc=7'
        """
        places = (f"{quote(name, safe=':/#')}={number}" for name, number in self.places)
        return " ".join([self.kind, *places])

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of `str`; ValueError for anything else.

        >>> Order.parse("os network=1 hd=2").names
        ('network', 'hd')
        """
        kind, *items = text.split(" ")
        places = tuple(map(_place, items))
        is_unique = len({number for _, number in places}) == len(places)
        if kind == "device" and is_unique:
            return cls("device", places)
        if kind == "os" and is_unique and all(name in OS_WORDS for name, _ in places):
            return cls("os", places)
        raise ValueError(f"no boot order: {text!r}")


def renamed(old: Order, now: Order, present: Container[str]) -> dict[str, str] | None:
    """What each device in an order is called in the order that the machine has now.

    A device that is no longer `present` may have been renamed, or have another MAC address: then
    one of its role, which was in no place before, has its place in the sequence. Or it was taken
    out, and has none. Two of a role may have changed names. What was added behind all others has
    none of the old names. None if the two orders differ beyond that: somebody has set another one.

    >>> old = Order.of("device", ["network:52:54:00:aa:00:01", "disk:vda"])
    >>> renamed(old, Order.of("device", ["network:52:54:00:bb:00:02", "disk:vda"]), ["disk:vda"])
    {'network:52:54:00:aa:00:01': 'network:52:54:00:bb:00:02', 'disk:vda': 'disk:vda'}
    """
    if old.kind != now.kind:
        return None
    if list(map(_role, old.names)) == list(map(_role, now.names)):
        return dict(zip(old.names, now.names, strict=True))
    names: dict[str, str] = {}
    following = list(reversed(now.names))
    for name in old.names:
        there = following[-1] if following else None
        if name in present:
            if there != name:
                return None
        elif there is None or there in old.names or _role(there) != _role(name):
            continue
        names[name] = following.pop()
    return None if any(name in old.names for name in following) else names


def _role(name: str) -> str:
    return name.partition(":")[0]


def _place(item: str) -> tuple[str, int]:
    name, _, number = item.rpartition("=")
    if not 0 < int(number) <= _LARGEST:
        raise ValueError(f"no place in a boot order: {item!r}")
    return unquote(name), int(number)
