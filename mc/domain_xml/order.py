"""The boot order of a machine: XML text in, XML text out.

Only boot elements and the controller's own note in the metadata (`note`) ever change, but for the
XML of a one-time boot, which is for `virsh create` alone; every other byte of the text comes out as
it went in. A rewrite that changes nothing returns its argument.

Every function raises CannotBoot if the XML is not well-formed, or has no boot order: a container,
for one. What it takes is a persistent definition, from `dumpxml --inactive --security-info`, or a
running machine's `dumpxml`, which is good for reading only. Roles are those of `Domain`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mc.domain_xml import note as notes
from mc.domain_xml.devices import Role, node_device
from mc.domain_xml.domain import NO_ROLES, Domain
from mc.domain_xml.note import DEVICES, Device, Note
from mc.domain_xml.sequence import Order, renamed
from mc.domain_xml.splice import Document
from mc.errors import CannotBoot

__all__ = [
    "DEVICES",
    "Boot",
    "Device",
    "Order",
    "begun",
    "booting",
    "ended",
    "ends_on_reboot",
    "is_ours",
    "is_pending",
    "lifecycle",
    "node_devices",
    "read",
    "read_ours",
    "reboots_wrongly",
    "with_once",
    "with_order",
    "without_marks",
]

ROLES: dict[Device, Role] = {"pxe": "network", "disk": "disk", "cdrom": "cdrom"}
"""Which devices are meant: floppies are neither disk nor cdrom. `default` means no device."""

# Of libvirt's QEMU driver (https://libvirt.org/formatdomain.html), which alone tells whether it was
# a reboot that has ended a machine.
_QEMU_TYPES = ("qemu", "kvm", "hvf")


@dataclass(frozen=True)
class Boot:
    """What a machine boots.

    order: what its XML says; default: what it said before this controller changed it; asked: the
    device that the order was set for, or None if somebody else has set it; once: the device that
    the next boot only is to use; begun and running: see `Note`.
    """

    order: Order
    default: Order
    asked: Device | None
    once: Device | None
    begun: Device | None
    running: Device | None


def read(xml: str) -> Boot:
    domain = Domain(xml)
    note = _note(domain)
    return Boot(
        domain.order,
        note.default or domain.order,
        note.asked if note.asked and _is_first(domain.order, note.asked) else None,
        note.once,
        note.begun,
        note.running,
    )


def is_ours(xml: str) -> bool:
    """Whether this controller has set something in this machine's boot order, now or once."""
    return notes.read(Document(xml)) is not None


def read_ours(xml: str) -> Boot | None:
    """What the machine boots; None where this controller has set nothing, whatever its XML is."""
    return read(xml) if is_ours(xml) else None


def is_pending(upcoming: str, running: str) -> bool:
    """Whether a machine runs, by one XML, by another order than the other one has.

    What libvirt has left out of it, or somebody plugged or unplugged, is no other order.
    """
    after, before = Domain(upcoming), Domain(running)
    if after.order == before.order:
        return False
    both = after.names & before.names
    orders = [[name for name in each.order.names if name in both] for each in (after, before)]
    return orders[0] != orders[1] or _is_set_since(after, before)


def reboots_wrongly(upcoming: str, running: str) -> bool:
    """Whether a mark, or an order that this controller has set since, is not that of the run."""
    after, before = Domain(upcoming), Domain(running)
    if _kept(after).once is not None:
        return True
    return after.order != before.order and _is_set_since(after, before)


def _is_set_since(after: Domain, before: Domain) -> bool:
    """Whether the note of the order is another one than the running machine was started with."""
    notes_ = [
        (note.default, note.written, note.asked, note.running)
        for note in (_kept(after), _kept(before))
    ]
    return notes_[0] != notes_[1]


def lifecycle(xml: str, event: str) -> str | None:
    """libvirt's word for what follows on `on_reboot` or `on_poweroff`, such as `restart`."""
    return Document(xml).root.findtext(event)


def ends_on_reboot(xml: str) -> bool:
    """Whether a reboot ends the hypervisor process of the machine that runs by this XML."""
    return lifecycle(xml, "on_reboot") == "destroy"


def node_devices(xml: str) -> dict[str, str]:
    """The names of passed-through devices, with libvirt's own name of each on the host."""
    found = {each.name: node_device(each.element) for each in Domain(xml).devices}
    return {name: node for name, node in found.items() if node is not None}


def with_order(xml: str, device: Device, roles: Mapping[str, Role] = NO_ROLES) -> str:
    """The XML that boots from this device first, or as it did when the controller found it.

    The devices meant come first, in their old order, then everything else in its old order. If
    none that can boot is listed, the first in the document joins. Numbers become 1, 2, 3, ...,
    unless the sequence is right as it is. `default` brings back the old numbers as well, and what
    had joined leaves; a device that is gone is left out. A mark for one boot stays.
    Raises CannotBoot if there is no such device, or the machine would not look at it.
    """
    domain = Domain(xml, roles)
    note = _note(domain)
    order = _asked(domain, note, device)
    if device == "default":
        noted = replace(note, default=None, written=None, asked=None)
    else:
        noted = replace(note, default=note.default or domain.order, written=order, asked=device)
    return _rewritten(domain, order, noted)


def with_once(xml: str, device: Device | None, roles: Mapping[str, Role] = NO_ROLES) -> str:
    """The XML with the mark that the next boot, and that alone, is from this device; None: without.

    Where nothing else is noted, taking the mark away brings back the XML from before it.
    Raises CannotBoot as `with_order` does.
    """
    domain = Domain(xml, roles)
    if device is not None:
        _asked(domain, _note(domain), device)
    return _noted(domain, replace(_kept(domain), once=device))


def booting(xml: str, device: Device, roles: Mapping[str, Role] = NO_ROLES) -> str:
    """The XML for `virsh create` that boots from this device, in a hypervisor process of its own.

    QEMU ends at a reboot of it, so that nobody can boot from that device twice. libvirt's QEMU
    driver takes no `restart` at a power-off beside that.
    Raises CannotBoot as `with_order` does.
    """
    domain = Domain(xml, roles)
    note = _note(domain)
    order = _asked(domain, note, device)
    if domain.type in _QEMU_TYPES:
        domain.set_lifecycle("on_reboot", "destroy")
        if domain.lifecycle("on_poweroff") == "restart":
            domain.set_lifecycle("on_poweroff", "destroy")
    default = note.default or domain.order
    return _rewritten(domain, order, Note(default, order, running=device))


def begun(xml: str) -> str:
    """The XML whose one-time boot begins: its mark is spent.

    That it has begun is noted where somebody will tell of its end.
    """
    domain = Domain(xml)
    note = _kept(domain)
    begun = note.once if domain.type in _QEMU_TYPES else None
    return _noted(domain, replace(note, once=None, begun=begun))


def ended(xml: str) -> str:
    """The XML that says no more that a one-time boot has begun."""
    domain = Domain(xml)
    return _noted(domain, replace(_kept(domain), begun=None))


def without_marks(xml: str) -> str:
    """The XML as it may be kept: when it is taken back, no boot that has been is begun again."""
    return ended(with_once(xml, None))


def _asked(domain: Domain, note: Note, device: Device) -> Order:
    """The order that was asked for; the domain's own if that is it."""
    if device != "default":
        return _in_front(domain, device)
    default = note.default or domain.order
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


def _kept(domain: Domain) -> Note:
    """The note as it stands in the domain."""
    return notes.read(domain.document) or Note()


def _is_first(order: Order, device: Device) -> bool:
    """Whether the order may be for this device: what was passed through may be anything."""
    kind = order.labels[0].partition(":")[0] if order.labels else ""
    return kind in (ROLES.get(device), "hostdev", *order.names[:1])


def _note(domain: Domain) -> Note:
    """The note, less what holds no more: somebody may have set another order since.

    To take a device out of the machine is not to set an order, nor is to give it another name.
    """
    note = _kept(domain)
    names = None
    if note.written and note.default and note.default.kind == domain.kind:
        names = renamed(note.written, domain.order, domain.names)
    if names is None or note.default is None:
        return replace(note, default=None, written=None, asked=None)
    places = [(names.get(name, name), number) for name, number in note.default.places]
    added = [place for place in domain.order.places if place[0] not in names.values()]
    last = max((number for _, number in places), default=0)
    places += [(name, last + number) for number, (name, _) in enumerate(added, 1)]
    return replace(note, default=domain.present(Order(domain.kind, tuple(places))))


def _rewritten(domain: Domain, order: Order, note: Note) -> str:
    domain.write(order)
    return _noted(domain, note)


def _noted(domain: Domain, note: Note) -> str:
    notes.write(domain.document, note)
    return domain.document.result()
