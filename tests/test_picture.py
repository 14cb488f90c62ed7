"""Pictures of screens: PNG passes, PPM is converted pixel by pixel, everything else is refused."""

import random
import struct
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.errors import NoPicture
from mc.machine.picture import png

BLUE = b"P6 1 1 255\n\0\0\xff"


def chunks(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG, whose checksums and lengths are right, and nothing behind them."""
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(image):
        (length,) = struct.unpack_from(">I", image, at)
        kind, content = image[at + 4 : at + 8], image[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", image, at + 8 + length) == (zlib.crc32(kind + content),)
        yield kind, content
        at += 12 + length
    assert at == len(image)


def pixels(image: bytes) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Width, height and the pixels of a PNG of 8-bit RGB without filters and interlacing."""
    (_, header), (_, data), (_, end) = list(chunks(image))
    assert [kind for kind, _ in chunks(image)] == [b"IHDR", b"IDAT", b"IEND"]
    assert end == b""
    width, height, *form = struct.unpack(">IIBBBBB", header)
    assert form == [8, 2, 0, 0, 0]
    raw = zlib.decompress(data)
    assert len(raw) == height * (1 + 3 * width)
    found = []
    for y in range(height):
        row = raw[y * (1 + 3 * width) : (y + 1) * (1 + 3 * width)]
        assert row[0] == 0
        found += [(row[1 + 3 * x], row[2 + 3 * x], row[3 + 3 * x]) for x in range(width)]
    return width, height, found


colours = st.tuples(*3 * [st.integers(0, 255)])
gaps = st.sampled_from(
    [b" ", b"\n", b"\t", b"\r\n", b"\n# a comment 7\n", b" #\n  # # 9\r", b"\v\f"]
)


@given(st.data(), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_every_pixel_of_a_ppm_is_in_the_png(data: st.DataObject, width: int, height: int) -> None:
    size = width * height
    image = data.draw(st.lists(colours, min_size=size, max_size=size))
    header = b"P6"
    for number in (width, height, 255):
        header += data.draw(gaps) + str(number).encode()
    header += data.draw(st.sampled_from([b"\n", b" ", b"\t"]))
    ppm = header + b"".join(map(bytes, image))
    assert pixels(png(ppm)) == (width, height, image)


def test_screen_of_a_common_size() -> None:
    numbers = random.Random(1)
    image = [(numbers.randrange(256), 0, y % 256) for y in range(480) for _ in range(640)]
    ppm = b"P6\n640 480\n255\n" + b"".join(map(bytes, image))
    assert pixels(png(ppm)) == (640, 480, image)


def test_pixels_that_look_like_a_comment_are_pixels() -> None:
    assert pixels(png(b"P6 1 1 255\n#\n "))[2] == [(ord("#"), ord("\n"), ord(" "))]
    assert pixels(png(b"P6 1 1 255#\n "[:10] + b"\n\n\n\n"))[2] == [(10, 10, 10)]


def test_png_passes_as_it_is() -> None:
    image = png(BLUE)
    assert png(image) is image


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        png(BLUE)[:-1],
        png(BLUE) + b"\n",
        png(BLUE)[1:],
        b"P6",
        b"P6 1 1 255",
        b"P6 1 1 255\n",
        BLUE[:-1],
        BLUE + b"\0",
        2 * BLUE,
        b"P6 0 1 255\n",
        b"P6 1 0 255\n",
        b"P6 -1 -1 255\n\0\0\0",
        b"P6 1 1 0\n\0\0\0",
        b"P6 1 1 15\n\0\0\0",
        b"P6 1 1 256\n\0\0\0\0\0\0",
        b"P6 1 1 65535\n\0\0\0\0\0\0",
        b"P6 99999 99999 255\n\0\0\0",
        b"P6 999999 1 255\n\0\0\0",
        b"P6 1 1 255x\0\0\0",
        b"P61 1 255\n\0\0\0",
        b"P6 1 # 255\n\0\0\0",
        b"P6" + 5000 * b" " + b"1 1 255\n\0\0\0",
        b"P5 1 1 255\n\0",
        b"P3 1 1 255\n0 0 0",
        b"GIF89a",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"BM",
        b"<svg/>",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(NoPicture, match="there is no picture of the screen: libvirt's is"):
        png(data)
