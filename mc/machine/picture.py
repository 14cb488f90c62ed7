"""Pictures of screens: whatever the hypervisor makes of them, as PNG."""

import re
import struct
import zlib

from mc.errors import NoPicture

# https://www.w3.org/TR/png/ and https://netpbm.sourceforge.net/doc/ppm.html
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_SPACE = rb"[ \t\n\v\f\r]"
_GAP = rb"(?:" + _SPACE + rb"|#[^\r\n]*[\r\n])+"
_PPM_HEADER = re.compile(rb"P6" + 3 * (_GAP + rb"(\d{1,5})") + _SPACE)
_LONGEST_HEADER = 4096
_EIGHT_BITS = 255
_RGB = 2
# Screens are mostly flat: more effort gains little, and somebody is waiting.
_COMPRESSION = 1


def png(data: bytes) -> bytes:
    """The picture as PNG: as it is, or made from a binary PPM (P6) of 8 bits, as QEMU makes them.

    What virsh says about the type is not asked, the data is. Raises `NoPicture` for anything else
    and for what is cut off.
    """
    if data.startswith(_PNG_START):
        if not data.endswith(_PNG_END):
            raise NoPicture("libvirt's is a PNG that is cut off")
        return data
    if data.startswith(b"P6"):
        return _from_ppm(data)
    raise NoPicture(f"libvirt's is neither PNG nor PPM, but begins with {data[:8]!r}")


def _from_ppm(data: bytes) -> bytes:
    header = _PPM_HEADER.match(data, 0, _LONGEST_HEADER)
    if not header:
        raise NoPicture("libvirt's is a PPM whose header makes no sense")
    width, height, most = map(int, header.groups())
    if not width or not height or most != _EIGHT_BITS:
        raise NoPicture(
            f"libvirt's is a PPM of {width} by {height} pixels with values up to {most}"
        )
    start, row = header.end(), 3 * width
    given = len(data) - start
    if given != height * row:
        raise NoPicture(f"libvirt's is a PPM of {width} by {height} pixels in {given} bytes")
    # Each row is preceded by its filter, of which 0 is none.
    rows = b"".join(b"\0" + data[at : at + row] for at in range(start, len(data), row))
    size = struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)
    chunks = (b"IHDR", size), (b"IDAT", zlib.compress(rows, _COMPRESSION)), (b"IEND", b"")
    return _PNG_START + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
