"""A boot order as a value: which entries, by which numbers, and a text form to store it in."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import quote, unquote

Kind = Literal["device", "os"]

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
        if kind == "device":
            return cls("device", places)
        if kind == "os" and all(name in OS_WORDS for name, _ in places):
            return cls("os", places)
        raise ValueError(f"no boot order: {text!r}")


def _place(item: str) -> tuple[str, int]:
    name, _, number = item.rpartition("=")
    if int(number) < 1:
        raise ValueError(f"no place in a boot order: {item!r}")
    return unquote(name), int(number)
