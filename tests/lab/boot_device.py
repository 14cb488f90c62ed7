"""Devices to boot from: each holds the guest under a banner of its own, which is also its name.

The guest's serial line so says which device the firmware has booted.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import ClassVar, Literal

from tests.lab.compact_disc import compact_disc
from tests.lab.option_rom import option_rom

Chipset = Literal["pc", "q35"]
Rom = Literal["guest", "ipxe", "none"]

DRIVES = {
    "pc": ("ide", ("hda", "hdb", "hdc", "hdd")),
    "q35": ("sata", ("sda", "sdb", "sdc", "sdd", "sde", "sdf")),
}
"""The disk bus that each chipset has built in, and the names of the drives on it."""

NICS = {"pc": ("e1000", 0x8086, 0x100E), "q35": ("e1000e", 0x8086, 0x10D3)}
"""A network card for each chipset's bus (PCI, PCI Express), and its PCI ids."""

DISK_SIZE = 1 << 20
"""Bytes of a disk, of which the guest uses one sector. SeaBIOS reads no SATA disk of less than
516,096 bytes: a whole cylinder of its geometry."""


@dataclass(frozen=True)
class Drive:
    """What disks and CD-ROMs have in common."""

    banner: str

    dev: ClassVar[str]
    """libvirt's word for the kind in `<os><boot dev='...'/>`."""
    device: ClassVar[str]
    """libvirt's word for the kind in `<disk device='...'>`."""
    size: ClassVar[int] = 0
    """Bytes that its file has at least."""

    def xml(self, bus: str, target: str, file: Path, boot: str) -> str:
        """The `<disk>`, which is the drive `target` of the bus; boot: its `<boot>` or nothing."""
        return f"""\
    <disk type='file' device='{self.device}'>
      <driver name='qemu' type='raw'/>
      <source file='{escape(str(file))}'/>
      <target dev='{target}' bus='{bus}'/>
      {boot}
    </disk>"""


@dataclass(frozen=True)
class Disk(Drive):
    """A hard disk. SeaBIOS tries only the first one in the boot order."""

    banner: str = "disk"

    dev = "hd"
    device = "disk"
    size = DISK_SIZE

    def content(self, sector: bytes, chipset: Chipset) -> bytes:
        """What is in the disk's file: the guest's boot sector."""
        return sector


@dataclass(frozen=True)
class Cdrom(Drive):
    """A CD-ROM drive with a bootable CD in it."""

    banner: str = "cdrom"

    dev = "cdrom"
    device = "cdrom"

    def content(self, sector: bytes, chipset: Chipset) -> bytes:
        """The image of the CD."""
        return compact_disc(sector)


@dataclass(frozen=True)
class Nic:
    """A network card on QEMU's user network, which needs no privileges.

    rom: `guest` is an option ROM that boots the guest at once, without network; `ipxe` is QEMU's
    own, from the Debian package ipxe-qemu, which loads the guest by DHCP and TFTP in some 6 s (one
    card per machine); `none` is `<rom enabled='no'/>`: the firmware cannot boot from this card.
    """

    banner: str = "network"
    rom: Rom = "guest"

    dev: ClassVar[str] = "network"
    size: ClassVar[int] = 0

    def content(self, sector: bytes, chipset: Chipset) -> bytes:
        """What is in the card's file: the option ROM, or what iPXE loads."""
        if self.rom == "guest":
            _, vendor, device = NICS[chipset]
            return option_rom(vendor, device, sector)
        return sector

    def xml(self, chipset: Chipset, file: Path, boot: str) -> str:
        """The `<interface>`; boot: its `<boot>` or nothing."""
        roms = {"guest": f"<rom file='{escape(str(file))}'/>", "none": "<rom enabled='no'/>"}
        return f"""\
    <interface type='user'>
      <model type='{NICS[chipset][0]}'/>
      {boot}
      {roms.get(self.rom, "")}
    </interface>"""


BootDevice = Disk | Cdrom | Nic
