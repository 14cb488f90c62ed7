"""The devices that can have a place in the boot order, and the names they are called by."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lxml import etree

Role = Literal["disk", "cdrom", "floppy", "network", "hostdev", "redirdev"]

_TAGS = ("disk", "interface", "hostdev", "redirdev")
_DISK_ROLES: dict[str, Role] = {"cdrom": "cdrom", "floppy": "floppy"}
_ROLES: dict[str, Role] = {"interface": "network", "redirdev": "redirdev"}
_VIRTIO = ("virtio", "virtio-transitional", "virtio-non-transitional")
# What a `<hostdev>` is where its type tells: a SCSI device, or an s390 disk (vfio-ccw).
_HOSTDEV_ROLES: dict[tuple[str | None, str | None], Role] = {
    ("scsi", None): "disk",
    ("mdev", "vfio-ccw"): "disk",
}
# Of a `<source>`, what tells nothing about which device it is.
_NO_IDENTITY = ("startupPolicy", "guestReset", "writeFiltering")
# And who may use it, which is nobody else's business.
_CREDENTIALS = ("auth", "secret")
# Base classes of PCI devices (PCI Code and ID Assignment Specification, section 1.1) to boot from.
_PCI_ROLES: dict[int, Role] = {0x01: "disk", 0x02: "network"}


@dataclass(frozen=True)
class Device:
    """One `<disk>`, `<interface>`, `<hostdev>` or `<redirdev>`.

    name: `disk:vda`, `network:52:54:00:aa:00:01`, `hostdev:0000:03:00.0`: the same in each dump
    of the machine, and no two devices of a machine have the same.
    """

    element: etree._Element
    role: Role
    name: str

    @property
    def boot(self) -> etree._Element | None:
        """Its `<boot order='N'/>`."""
        return self.element.find("boot")

    def is_bootable(self, *, is_uefi: bool) -> bool:
        """False for an interface that the firmware cannot boot from: it sees no boot ROM of it.

        UEFI has a driver of its own for virtio interfaces.
        """
        rom = self.element.find("rom") if self.role == "network" else None
        if rom is None or (is_uefi and _attribute(self.element, "model", "type") in _VIRTIO):
            return True
        return rom.get("enabled") != "no" and rom.get("bar") != "off" and rom.get("file") != ""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to boot from now: a link that is down, or an empty drive."""
        if self.role == "network":
            return _attribute(self.element, "link", "state") == "down"
        return self.role in ("cdrom", "floppy") and self.element.find("source") is None

    @property
    def is_passed_through(self) -> bool:
        return self.element.tag == "hostdev"


def devices(domain: etree._Element, roles: Mapping[str, Role]) -> list[Device]:
    """All of them, in document order, which is what libvirt goes by.

    roles: what passed-through devices are, by name; those left out are `hostdev`.
    """
    found = []
    indexes: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for element in domain.iterfind("devices/*"):
        if element.tag not in _TAGS:
            continue
        role = _role(element)
        kind = "hostdev" if element.tag == "hostdev" else role
        name = f"{kind}:{_identity(element) or indexes[kind]}"
        indexes[kind] += 1
        names[name] += 1
        # libvirt allows two interfaces of one MAC address.
        unique = name if names[name] == 1 else f"{name}#{names[name]}"
        found.append(Device(element, roles.get(unique, role), unique))
    return found


def node_device(element: etree._Element) -> str | None:
    """libvirt's name on the host for a `<hostdev>` of type pci; None for what is no such thing."""
    address = element.find("source/address")
    if element.tag != "hostdev" or element.get("type") != "pci" or address is None:
        return None
    pci = _pci_address(address)
    return pci and "pci_" + re.sub("[:.]", "_", pci)


def role_on_host(node_device: str) -> Role:
    """What a device is by its PCI class, in the XML of `virsh nodedev-dumpxml`.

    https://libvirt.org/formatnode.html
    """
    text = etree.fromstring(node_device).findtext("capability[@type='pci']/class", "")
    try:
        return _PCI_ROLES.get(int(text, 16) >> 16, "hostdev")
    except ValueError:
        return "hostdev"


def _role(element: etree._Element) -> Role:
    if element.tag == "disk":
        # `disk`, `lun`, or nothing, which means `disk`.
        return _DISK_ROLES.get(element.get("device", "disk"), "disk")
    if element.tag == "hostdev":
        return _HOSTDEV_ROLES.get((element.get("type"), element.get("model")), "hostdev")
    return _ROLES[str(element.tag)]


def _identity(element: etree._Element) -> str | None:
    """What tells a device from others of its role; None where nothing but its place does."""
    if element.tag == "disk":
        return _attribute(element, "target", "dev")
    if element.tag == "interface":
        address = _attribute(element, "mac", "address")
        return address and address.lower()
    if element.tag == "hostdev":
        return _host_device(element)
    return None


def _attribute(element: etree._Element, path: str, name: str) -> str | None:
    found = element.find(path)
    return None if found is None else found.get(name)


def _host_device(element: etree._Element) -> str | None:
    """The PCI address, the USB IDs, or whatever else `<source>` says.

    A running machine's dump adds the USB address to IDs, so it is left out where there are IDs.
    """
    kind = element.get("type")
    address = element.find("source/address")
    if kind == "pci" and address is not None:
        return _pci_address(address)
    vendor = _attribute(element, "source/vendor", "id")
    product = _attribute(element, "source/product", "id")
    if vendor and product:
        return f"{vendor}:{product}".replace("0x", "")
    source = element.find("source")
    parts = [] if source is None else source.iter("*")
    values = [
        str(value)
        for each in parts
        if each.tag not in _CREDENTIALS
        for key, value in each.attrib.items()
        if key not in _NO_IDENTITY
    ]
    return ":".join([kind or "", *values]) if values else None


def _pci_address(address: etree._Element) -> str | None:
    """As lspci writes it; libvirt's own numbers are hexadecimal."""
    try:
        domain, bus, slot, function = (
            int(address.get(name, "0"), 16) for name in ("domain", "bus", "slot", "function")
        )
    except ValueError:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
