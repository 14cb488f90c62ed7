"""Domains of every shape for the tests of the boot order, and a look at them without its code."""

import re

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

# What looks like markup and is none. It has to come out as it went in.
TRAPS = (
    "<![CDATA[</description><boot order='1'/>]]>",
    "<!-- <boot order='1'/> > ' -->",
    "<?note <boot dev='hd'/> > \" ?>",
    "&lt;boot order='1'/>&amp;&#x3e;",
)
METADATA = (
    "",
    '<metadata><o:other xmlns:o="urn:o" boot="1>2"/></metadata>',
    "<metadata>\n    <!-- alone --></metadata>",
    '<metadata>\n\t<o:a xmlns:o="urn:o">é</o:a>\r\n<o:b xmlns:o="urn:o2"/> <!-- c --> </metadata>',
)
DISKS = {"disk": "vd", "lun": "sd", "cdrom": "hd", "floppy": "fd"}
ROMS = ("", "", "<rom enabled='no'/>", '<rom bar="off"/>', "<rom bar='on'/>")


def boot_element(attribute: str, quote: str) -> str:
    return f"<boot {attribute.replace(chr(39), quote)}/>"


@st.composite
def device(draw: DrawFn, number: int) -> tuple[str, str]:
    """A device with a place for its boot element, `{}`: the text before it and after it."""
    kind = draw(st.sampled_from([*DISKS, "", "interface", "interface", "hostdev", "redirdev"]))
    space = draw(st.sampled_from(["", "\n      ", "\r\n\t\t"]))
    if kind == "interface":
        rom = draw(st.sampled_from(ROMS))
        mac = f'<mac address="52:54:00:00:00:{number:02x}"/>'
        return f"<interface type='user'>{space}{mac}", f"{space}{rom}{space}</interface>"
    if kind == "hostdev":
        source = f"<source><address bus='0x{number:02x}'/></source>"
        return f"<hostdev mode='subsystem' type='pci'>{space}{source}", f"{space}</hostdev>"
    if kind == "redirdev":
        return "<redirdev bus='usb' type='spicevmc'>", f"{space}</redirdev>"
    attribute = kind and f' device="{kind}"'
    target = f"<target dev='{DISKS.get(kind, 'xvd')}{chr(ord('a') + number)}'/>"
    address = draw(st.sampled_from(["", "<address type='drive'/>"]))
    return f"<disk{attribute}>{space}<source file='a>b'/>{target}", f"{space}{address}</disk>"


@st.composite
def domain(draw: DrawFn) -> str:
    """A machine of up to six devices and either kind of boot elements, or none."""
    space = draw(st.sampled_from(["", "\n  ", "\r\n  ", " "]))
    quotes = st.sampled_from(["'", '"'])
    count = draw(st.integers(0, 6))
    devices = [draw(device(number)) for number in range(count)]
    listed = draw(st.sets(st.integers(0, count - 1))) if count else set()
    numbers = draw(st.permutations(range(1, 30)))
    loadparm = draw(st.sampled_from(["", " loadparm='LINUX'"]))
    words = st.sampled_from(["hd", "network", "cdrom", "fd"])
    texts = []
    for index, (start, end) in enumerate(devices):
        boot = f"order='{numbers[index]}'{loadparm}"
        element = space + boot_element(boot, draw(quotes)) if index in listed else ""
        texts.append(start + element + end + draw(st.sampled_from(["", space + TRAPS[1]])))
    os_words = [] if listed else draw(st.lists(words, max_size=4))
    os_boots = "".join(space + boot_element(f"dev='{word}'", draw(quotes)) for word in os_words)
    return (
        f"<domain>{space}<name>m</name>{space}{draw(st.sampled_from(METADATA))}"
        f"<description>{''.join(draw(st.lists(st.sampled_from(TRAPS))))}</description>"
        f"{space}<os><type>hvm</type>{os_boots}{space}</os>"
        f"{space}<devices>{space}{space.join(texts)}</devices>\n</domain>\n"
    )


def domains() -> SearchStrategy[str]:
    return domain()


def traps(xml: str) -> list[str]:
    """The traps that are in a text, in turn."""
    return re.findall("|".join(map(re.escape, TRAPS)), xml)


def without_note(xml: str) -> str:
    """The text without what the controller keeps in the metadata."""
    text = re.sub(r"\s*<mc:boot xmlns:mc=\"urn:libvirt_http_mc:boot:1\"[^>]*/>", "", xml)
    return re.sub(r"\s*<metadata\s*(/>|>\s*</metadata>)", "", text)


def without_boot(xml: str) -> str:
    """The text without all that may change in it."""
    # The markers keep a boot element's look-alike in a comment from being taken for one.
    text = without_note(re.sub("|".join(map(re.escape, TRAPS)), "(trap)", xml))
    text = re.sub(r"\s*<boot\s[^>]*?(/>|></boot>)", "", text)
    # A device that had nothing in it had to be opened for its boot element.
    return re.sub(r"<(\w+)([^<>]*)></\1>", r"<\1\2/>", text)
