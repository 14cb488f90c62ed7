"""A network card's option ROM that boots the guest itself, without any network.

Its layout is that of the PCI Local Bus Specification 2.2, section 6.3.1 (header and PCI data
structure), with the expansion header of the Plug and Play BIOS Specification 1.0A, section 3.2. The
latter's bootstrap entry vector (BEV) makes the card a boot device of its own: BIOS Boot
Specification 1.01, section 3.3.
"""

import struct

from tests.lab.guest import ORIGIN, SECTOR

BLOCK = 512
"""The unit in which a ROM states its size."""

BLOCKS = 2
"""Headers and code fill one block, the guest the other."""

# Where things are in the ROM. The PCI data structure must begin at a multiple of four.
PCI_DATA, PNP_HEADER, BOOTSTRAP, CHECKSUM, GUEST = 0x1C, 0x40, 0x60, BLOCK - 1, BLOCK

INITIALISE = bytes.fromhex(
    "B8 20 00"  # mov ax, 0x20  (bits 5 and 4, 10: there is a device to boot from)
    "CB"  # retf
)
"""What the firmware calls when it finds the ROM, at its offset 3."""

LOAD_GUEST = bytes.fromhex(
    "FC"  # cld
    "0E"  # push cs
    "1F"  # pop ds
    f"BE {GUEST.to_bytes(2, 'little').hex()}"  # mov si, GUEST
    "31 C0"  # xor ax, ax
    "8E C0"  # mov es, ax
    f"BF {ORIGIN.to_bytes(2, 'little').hex()}"  # mov di, ORIGIN
    f"B9 {(SECTOR // 2).to_bytes(2, 'little').hex()}"  # mov cx, SECTOR / 2
    "F3 A5"  # rep movsw
    f"EA {ORIGIN.to_bytes(2, 'little').hex()} 00 00"  # jmp 0:ORIGIN
)
"""What the firmware calls to boot: it puts the guest where a disk's boot sector would be."""

ETHERNET = bytes([0, 0, 2])
"""PCI class: interface 0, subclass 0 (Ethernet), base class 2 (network)."""

X86, LAST_IMAGE = 0, 0x80
"""Code type and indicator of the PCI data structure."""

IPL_DEVICE = 0x04
"""Bit 2 of the PnP device indicators: one can boot from it (initial program load)."""


def option_rom(vendor: int, device: int, sector: bytes) -> bytes:
    """The ROM of the PCI card with these ids: SeaBIOS ignores one whose ids are not the card's."""
    rom = bytearray(BLOCKS * BLOCK)
    header = struct.pack("<2sB4s17xHH", b"\x55\xaa", BLOCKS, INITIALISE, PCI_DATA, PNP_HEADER)
    for place, part in (
        (0, header),
        (PCI_DATA, _pci_data(vendor, device)),
        (PNP_HEADER, _pnp_header()),
        (BOOTSTRAP, LOAD_GUEST),
        (GUEST, sector),
    ):
        rom[place : place + len(part)] = part
    rom[CHECKSUM] = _complement(rom)
    return bytes(rom)


def _pci_data(vendor: int, device: int) -> bytes:
    """The PCI data structure, revision 0: 24 bytes."""
    return struct.pack(
        "<4sHH2xHB3sHHBB2x",
        *(b"PCIR", vendor, device),
        *(24, 0, ETHERNET),  # length, revision, class
        *(BLOCKS, 1, X86, LAST_IMAGE),  # length of the image, its revision
    )


def _pnp_header() -> bytes:
    """The PnP expansion header, revision 1: 32 bytes, in which all other vectors are 0 (none)."""
    header = bytearray(
        struct.pack(
            "<4sBB12x3sB4xH4x",
            *(b"$PnP", 1, 2),  # revision, length in units of 16 bytes
            *(ETHERNET[::-1], IPL_DEVICE, BOOTSTRAP),
        )
    )
    header[9] = _complement(header)
    return bytes(header)


def _complement(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes a multiple of 256."""
    return -sum(data) & 0xFF
