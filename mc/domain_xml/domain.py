"""The boot elements of a domain: both kinds read, and written in the kind that they are.

libvirt has two, mutually exclusive: `<boot order='N'/>` in devices, and in `<os>` up to four
`<boot dev='hd|network|cdrom|fd'/>`, each for the first such device of the machine.
"""

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

from lxml import etree

from mc.domain_xml.devices import Device, Role, devices, node_device
from mc.domain_xml.sequence import OS_WORDS, Kind, Order
from mc.domain_xml.splice import Document
from mc.errors import CannotBoot

_OS_ROLES: dict[str, Role] = {
    "hd": "disk",
    "network": "network",
    "cdrom": "cdrom",
    "fd": "floppy",
}
_OS_WORDS = {role: word for word, role in _OS_ROLES.items()}
_NOUNS = {"network": "interface", "disk": "disk", "cdrom": "cdrom"}
# What a passed-through device can be.
_PASSED_THROUGH = ("disk", "network")
# Before them libvirt writes a device's boot element, and else at its end.
_AFTER_BOOT = ("alias", "rom", "acpi", "address")
NO_ROLES: Mapping[str, Role] = MappingProxyType({})


class Domain:
    """A `<domain>` that has a boot order; CannotBoot if it is something else.

    roles: what passed-through devices are, by name, as far as somebody has asked the host.
    """

    def __init__(self, xml: str, roles: Mapping[str, Role] = NO_ROLES) -> None:
        self.document = Document(xml)
        self.type = self.document.root.get("type")
        self._os = _os(self.document.root)
        self._roles = roles
        self.devices = devices(self.document.root, roles)
        self._os_boots = self._os.findall("boot")
        self._listed = [device for device in self.devices if device.boot is not None]
        if self._listed and self._os_boots:
            raise CannotBoot("per-device boot elements cannot be used together with os/boot ones")
        self.kind: Kind = "device" if self._listed else "os"
        self.order = self.labelled(self._device_order() if self._listed else self._os_order())

    def first(self, role: Role) -> list[str]:
        """The names that come first when the machine is to boot from this role.

        Raises CannotBoot if there are none, or if the machine would not look at them.
        """
        if self._os.findtext("kernel"):
            raise CannotBoot("the machine boots its <kernel>, which beats every boot order")
        if self.document.root.find("devices") is None:
            raise CannotBoot("the machine has no <devices> to boot from")
        noun = _NOUNS[role]
        of_role = [device for device in self.devices if device.role == role]
        listed = [device for device in of_role if device.boot is not None]
        if not listed and role in _PASSED_THROUGH:
            self._check_known(noun)
        if not of_role:
            raise CannotBoot(f"the machine has no {noun} to boot from")
        if self.kind == "os":
            return [self._first_word(role, of_role)]
        able = [device for device in of_role if device.is_bootable(is_uefi=self._is_uefi)]
        if not able:
            raise CannotBoot(f"the boot ROM of every {noun} of the machine is switched off")
        return [device.name for device in sorted(able, key=lambda device: device.is_idle)]

    def _first_word(self, role: Role, of_role: list[Device]) -> str:
        """The word of `<boot dev>` for a role that some devices have."""
        noun = _NOUNS[role]
        own = [device for device in of_role if not device.is_passed_through]
        if not own:
            raise CannotBoot(
                f"the machine's only {noun} is passed through, and has no place in "
                "<os><boot dev>; give its devices <boot order> instead"
            )
        if not own[0].is_bootable(is_uefi=self._is_uefi):
            raise CannotBoot(
                f"the boot ROM of the first {noun}, {own[0].name}, is switched off, and "
                "with <os><boot dev> libvirt boots from no other one"
            )
        return _OS_WORDS[role]

    def _check_known(self, noun: str) -> None:
        """Raises CannotBoot if a passed-through device in the order may be what is meant."""
        for device in self._listed:
            if node_device(device.element) and device.name not in self._roles:
                raise CannotBoot(
                    f"the host cannot tell what {device.name} is, which the machine boots from and "
                    f"which may be its {noun}"
                )

    @property
    def _is_uefi(self) -> bool:
        loader = self._os.find("loader")
        is_flash = loader is not None and loader.get("type") == "pflash"
        return is_flash or self._os.get("firmware") == "efi"

    @property
    def names(self) -> set[str]:
        """Of all that can have a place in an order of the domain's kind."""
        return set(OS_WORDS) if self.kind == "os" else {device.name for device in self.devices}

    def present(self, order: Order) -> Order:
        """The order without the devices that the machine no longer has, their numbers left free."""
        places = tuple(place for place in order.places if place[0] in self.names)
        return self.labelled(Order(order.kind, places))

    def lifecycle(self, event: str) -> str | None:
        """What libvirt does at the `on_reboot` or `on_poweroff`: `restart`, `destroy`, ..."""
        return self.document.root.findtext(event)

    def set_lifecycle(self, event: str, action: str) -> None:
        """Set it, where the XML has it; libvirt's own always does."""
        element = self.document.root.find(event)
        if element is not None:
            self.document.replace(element, f"<{event}>{action}</{event}>")

    def labelled(self, order: Order) -> Order:
        """The order with the labels that it has in this machine."""
        labels = order.names if order.kind == "device" else map(self._os_label, order.names)
        return Order(order.kind, order.places, tuple(labels))

    def write(self, order: Order) -> None:
        """Make it the order in the document; it has to be of the domain's kind."""
        if order == self.order:
            return
        if self.kind == "os":
            self._write_os([name for name, _ in order.places])
        else:
            self._write_devices(dict(order.places))

    def _device_order(self) -> Order:
        places = [(device.name, _number(device)) for device in self._listed]
        return Order("device", tuple(sorted(places, key=lambda place: place[1])))

    def _os_order(self) -> Order:
        # A domain without any boot element gets `hd` from libvirt when it is defined.
        return Order.of("os", [boot.get("dev", "hd") for boot in self._os_boots] or ["hd"])

    def _os_label(self, word: str) -> str:
        """The device that has the word's place: the first of its role, in document order."""
        role = _OS_ROLES.get(word)
        own = (device for device in self.devices if not device.is_passed_through)
        return next((device.name for device in own if device.role == role), word)

    def _write_os(self, words: list[str]) -> None:
        """Elements change places rather than their `dev`: what else is in one stays with it."""
        unused: dict[str, list[str]] = {}
        for boot in self._os_boots:
            unused.setdefault(boot.get("dev", ""), []).append(self.document.source(boot))
        markups = [
            unused[word].pop(0) if unused.get(word) else f"<boot dev='{word}'/>" for word in words
        ]
        for boot, markup in zip(self._os_boots, markups, strict=False):
            self.document.replace(boot, markup)
        for boot in self._os_boots[len(markups) :]:
            self.document.remove(boot)
        neighbour = [*self._os.iterchildren("type"), *self._os_boots][-1]
        for markup in markups[len(self._os_boots) :]:
            self.document.add_after(neighbour, markup)

    def _write_devices(self, numbers: dict[str, int]) -> None:
        for device in self.devices:
            boot, number = device.boot, numbers.get(device.name)
            if boot is None and number is not None:
                self._add_boot(device.element, number)
            elif boot is not None and number is None:
                self.document.remove(boot)
            elif boot is not None and number is not None and _number(device) != number:
                self.document.set_attribute(boot, "order", number)

    def _add_boot(self, device: etree._Element, number: int) -> None:
        markup = f"<boot order='{number}'/>"
        children = list(device.iterchildren("*"))
        following = [child for child in children if child.tag in _AFTER_BOOT]
        if following:
            self.document.add_before(following[0], markup)
        elif children:
            self.document.add_after(children[-1], markup)
        else:
            self.document.add_first(device, markup)


def _os(root: etree._Element) -> etree._Element:
    """The `<os>` of a domain in which libvirt reads boot elements: that of a full machine."""
    if root.tag != "domain":
        raise CannotBoot(f"the machine's XML is no <domain>: its root is {root.tag!r}")
    if root.find("bootloader") is not None:
        raise CannotBoot("a <bootloader> on the host chooses what the machine boots")
    os = root.find("os")
    kind = "" if os is None else os.findtext("type", "").strip()
    if kind == "exe":
        raise CannotBoot("the machine is a container, which boots from no device")
    if os is None or kind != "hvm":
        raise CannotBoot(f"only an <os> of type hvm has a boot order, and this one has {kind!r}")
    return os


def _number(device: Device) -> int:
    """The device's place. libvirt takes positive numbers only."""
    text = "" if device.boot is None else device.boot.get("order", "")
    with suppress(ValueError):
        if (number := int(text)) > 0:
            return number
    raise CannotBoot(f"the boot order {text!r} of {device.name} is no positive number")
