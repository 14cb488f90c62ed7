"""The devices that can have a place in the boot order, and the names they are called by."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from lxml import etree

Role = Literal["disk", "cdrom", "floppy", "network", "hostdev", "redirdev"]

_TAGS = ("disk", "interface", "hostdev", "redirdev")
_DISK_ROLES: dict[str, Role] = {"cdrom": "cdrom", "floppy": "floppy"}
_ROLES: dict[str, Role] = {"interface": "network", "hostdev": "hostdev", "redirdev": "redirdev"}


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

    @property
    def has_rom(self) -> bool:
        """False for a device whose boot ROM the firmware never sees: QEMU leaves it out."""
        rom = self.element.find("rom")
        return rom is None or (rom.get("enabled") != "no" and rom.get("bar") != "off")


def devices(domain: etree._Element) -> list[Device]:
    """All of them, in document order, which is what libvirt goes by."""
    found = []
    indexes: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for element in domain.iterfind("devices/*"):
        if element.tag not in _TAGS:
            continue
        role = _role(element)
        name = f"{role}:{_identity(element) or indexes[role]}"
        indexes[role] += 1
        names[name] += 1
        # libvirt allows two interfaces of one MAC address.
        unique = name if names[name] == 1 else f"{name}#{names[name]}"
        found.append(Device(element, role, unique))
    return found


def _role(element: etree._Element) -> Role:
    if element.tag == "disk":
        # `disk`, `lun`, or nothing, which means `disk`.
        return _DISK_ROLES.get(element.get("device", "disk"), "disk")
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
    values = [value for each in element.iterfind("source//*") for value in each.attrib.values()]
    return ":".join([kind or "", *map(str, values)]) if values else None


def _pci_address(address: etree._Element) -> str | None:
    """As lspci writes it; libvirt's own numbers are hexadecimal."""
    try:
        domain, bus, slot, function = (
            int(address.get(name, "0"), 16) for name in ("domain", "bus", "slot", "function")
        )
    except ValueError:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
