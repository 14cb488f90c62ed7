"""The boot order of a machine: XML text in, XML text out.

Only boot elements and the controller's own note in the metadata (`note`) ever change; every other
byte of the text comes out as it went in. A rewrite that changes nothing returns its argument.

Every function raises CannotBoot if the XML is not well-formed, or has no boot order: a container,
for one. What it takes is a persistent definition, from `dumpxml --inactive --security-info`, or a
running machine's `dumpxml`, which is good for reading only.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from mc.boot import note as notes
from mc.boot.devices import Role
from mc.boot.domain import Domain
from mc.boot.note import Note
from mc.boot.sequence import Order
from mc.boot.splice import Document
from mc.errors import CannotBoot

__all__ = [
    "DEVICES",
    "Boot",
    "Device",
    "Order",
    "booting",
    "is_ours",
    "read",
    "with_once",
    "with_order",
]

Device = Literal["pxe", "disk", "cdrom", "default"]
"""What can be asked for."""

DEVICES: tuple[Device, ...] = get_args(Device)
ROLES: dict[Device, Role] = {"pxe": "network", "disk": "disk", "cdrom": "cdrom"}
"""Which devices are meant: floppies are neither disk nor cdrom. `default` means no device."""


@dataclass(frozen=True)
class Boot:
    """What a machine boots.

    order: what its XML says; default: what it said before this controller changed it; once: the
    device that the next boot only is to use.
    """

    order: Order
    default: Order
    once: Device | None


def read(xml: str) -> Boot:
    domain = Domain(xml)
    note = notes.read(domain.document) or Note()
    once = next((device for device in DEVICES if device == note.once), None)
    return Boot(domain.order, _default(domain, note), once)


def is_ours(xml: str) -> bool:
    """Whether this controller has set something in this machine's boot order, now or once."""
    return notes.read(Document(xml)) is not None


def with_order(xml: str, device: Device) -> str:
    """The XML that boots from this device first, or as it did when the controller found it.

    The devices meant come first, in their old order, then everything else in its old order. If
    none that can boot is listed, the first in the document joins. Numbers become 1, 2, 3, ...,
    unless the sequence is right as it is. `default` brings back the old numbers as well, and what
    had joined leaves; a device that is gone is left out. A mark for one boot stays.
    Raises CannotBoot if there is no such device, or the machine would not look at it.
    """
    domain = Domain(xml)
    note = notes.read(domain.document) or Note()
    order = _asked(domain, note, device)
    if order == domain.order:
        return xml
    return _rewritten(domain, order, Note(_default(domain, note), order, note.once))


def with_once(xml: str, device: Device | None) -> str:
    """The XML with the mark that the next boot, and that alone, is from this device; None: without.

    Where nothing else is noted, taking the mark away brings back the XML from before it.
    Raises CannotBoot as `with_order` does.
    """
    domain = Domain(xml)
    note = notes.read(domain.document) or Note()
    if device is not None:
        _asked(domain, note, device)
    if device == note.once:
        return xml
    notes.write(domain.document, replace(note, once=device))
    return domain.document.result()


def booting(xml: str, device: Device) -> str:
    """The XML for `virsh create` that boots from this device once, and shows that it is ours.

    Raises CannotBoot as `with_order` does.
    """
    domain = Domain(xml)
    note = notes.read(domain.document) or Note()
    order = _asked(domain, note, device)
    return _rewritten(domain, order, Note(_default(domain, note), order))


def _asked(domain: Domain, note: Note, device: Device) -> Order:
    """The order that was asked for; the domain's own if that is it."""
    if device != "default":
        return _in_front(domain, device)
    default = _default(domain, note)
    if not default.places:
        raise CannotBoot("the machine has none of the devices that its default order lists")
    return default


def _in_front(domain: Domain, device: Device) -> Order:
    """The order with this device in front; the domain's own if that is so."""
    first = domain.first(ROLES[device])
    names = domain.order.names
    if not any(name in first for name in names):
        names = (first[0], *names)
    wanted = tuple(sorted(names, key=lambda name: name not in first))
    if wanted == domain.order.names:
        return domain.order
    return Order.of(domain.kind, wanted)


def _default(domain: Domain, note: Note) -> Order:
    """The noted one, unless somebody has set another order since the note was written.

    To take a device out of the machine is not to set an order.
    """
    if note.default is None or note.written is None:
        return domain.order
    set_since = domain.present(note.written) != domain.order
    if set_since or note.default.kind != domain.kind:
        return domain.order
    return domain.present(note.default)


def _rewritten(domain: Domain, order: Order, note: Note) -> str:
    domain.write(order)
    notes.write(domain.document, note)
    return domain.document.result()
