"""A CD-ROM image that boots the guest: the "El Torito" Bootable CD-ROM Format Specification 1.0.

It has no file system: a firmware reads only the boot record and the boot catalog.
"""

import struct

SECTOR = 2048
"""Bytes of a CD's sector."""

BOOT_RECORD, CATALOG, IMAGE, SECTORS = 17, 18, 19, 20
"""Numbers of sectors; that of the boot record is fixed (figure 7)."""

NO_EMULATION = 0
"""The firmware loads the image as it is, instead of making it a floppy or hard disk."""


def compact_disc(boot_sector: bytes) -> bytes:
    """The image: the firmware loads the boot sector to 0x7C00, as it would a hard disk's."""
    record = struct.pack("<B5sB32s32xI", 0, b"CD001", 1, b"EL TORITO SPECIFICATION", CATALOG)
    parts = {BOOT_RECORD: record, CATALOG: _catalog(), IMAGE: boot_sector}
    return b"".join(parts.get(number, b"").ljust(SECTOR, b"\0") for number in range(SECTORS))


def _catalog() -> bytes:
    """The validation entry, whose 16-bit words add up to 0, and the one bootable entry.

    Sections 2.1 and 2.2. The bootable entry asks for one 512-byte sector, at the default segment,
    which is 0x7C0.
    """
    validation = bytearray(struct.pack("<BB28x2s", 1, 0, b"\x55\xaa"))
    words = struct.unpack("<16H", validation)
    struct.pack_into("<H", validation, 28, -sum(words) & 0xFFFF)
    return bytes(validation) + struct.pack("<BBHBxHI20x", 0x88, NO_EMULATION, 0, 0, 1, IMAGE)
