"""Boot orders rewritten: golden files, rules on generated domains, and libvirt's own opinion.

`UPDATE_GOLDEN=1 pytest tests/test_order.py` writes the golden files anew; read their diff.
"""

import os
import re
from collections import Counter
from difflib import unified_diff
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mc.domain_xml import order
from mc.domain_xml.devices import Role
from mc.domain_xml.order import Device, Order
from mc.errors import CannotBoot
from tests import domains
from tests.domains import traps, without_boot, without_note
from tests.lab import Laboratory, Virsh

DATA = Path(__file__).parent / "data/boot"
# `default` has cases of its own: those in which there is something to go back to.
DEVICES = tuple(order.ROLES)
CASES = sorted(path.name.removesuffix("-in.xml") for path in DATA.glob("*-in.xml"))
NOTED = [case for case in CASES if case.startswith("noted-")]
PAIRS = [(case, device) for case in CASES for device in DEVICES]
PAIRS += [(case, "default") for case in NOTED]
UPDATE = "UPDATE_GOLDEN" in os.environ


def minimal(disk_boot: str, os_boot: str = "", *, target: str = "vda") -> str:
    return (
        f"<domain><os><type>hvm</type>{os_boot}</os>"
        f"<devices><disk><target dev='{target}'/>{disk_boot}</disk></devices></domain>"
    )


def golden_input(case: str) -> str:
    return read_exactly(DATA / f"{case}-in.xml")


def read_exactly(path: Path) -> str:
    return path.read_bytes().decode()


def rewritten(xml: str, device: str) -> tuple[str, str]:
    """What comes of it, with the suffix of its golden file."""
    try:
        return order.with_order(xml, device), "xml"  # type: ignore[arg-type]
    except CannotBoot as error:
        return f"{error}\n", "txt"


def changed(xml: str, device: str) -> str | None:
    """The XML, None where the device is refused."""
    result, suffix = rewritten(xml, device)
    return result if suffix == "xml" else None


def results() -> list[tuple[str, str]]:
    """Every case with each XML that comes of it, none twice; `in` is the case itself."""
    texts = {(case, golden_input(case)): "in" for case in CASES}
    for case, device in PAIRS:
        result = changed(golden_input(case), device)
        if result is not None:
            texts.setdefault((case, result), device)
    return [(case, text) for case, text in texts]


@pytest.mark.parametrize(("case", "device"), PAIRS)
def test_golden(case: str, device: str) -> None:
    xml = golden_input(case)
    result, suffix = rewritten(xml, device)
    golden = DATA / f"{case}-{device}.{suffix}"
    if UPDATE:
        golden.write_bytes(result.encode())
    expected = read_exactly(golden) if golden.exists() else ""
    assert result == expected, difference(expected, result, golden.name)
    if suffix == "xml":
        assert without_boot(result) == without_boot(xml)


def difference(expected: str, found: str, name: str) -> str:
    lines = expected.splitlines(keepends=True), found.splitlines(keepends=True)
    return "".join(unified_diff(lines[0], lines[1], name, "now"))


def test_golden_files_are_those_of_the_cases() -> None:
    expected = {f"{case}-in.xml" for case in CASES} | {
        f"{case}-{device}.{rewritten(golden_input(case), device)[1]}" for case, device in PAIRS
    }
    assert {path.name for path in DATA.iterdir()} - {".gitattributes"} == expected


def test_every_device_has_a_case_for_each_outcome_in_both_kinds() -> None:
    found: set[tuple[str, str, str]] = set()
    for case, device in PAIRS:
        xml = golden_input(case)
        result = changed(xml, device)
        try:
            kind = order.read(xml).order.kind
        except CannotBoot:
            continue
        found.add((kind, device, outcome(xml, result)))
    every = {"refused", "unchanged", "moved", "joined"}
    expected = {
        (kind, device, each) for kind in ("os", "device") for device in DEVICES for each in every
    }
    restored = {("device", "default", each) for each in ("restored", "unchanged", "refused")}
    restored |= {("os", "default", each) for each in ("restored", "unchanged")}
    assert expected | restored == found


def outcome(xml: str, result: str | None) -> str:
    if result is None:
        return "refused"
    if order.read(result).order == order.read(xml).order:
        return "unchanged"
    before, after = order.read(xml).order.names, order.read(result).order.names
    if len(after) < len(before):
        return "restored"
    return "moved" if len(before) == len(after) else "joined"


def test_every_role_has_a_case() -> None:
    listed = {
        label.split(":")[0]
        for case, text in results()
        if case not in ("container", "bootloader", "paravirtual")
        for label in order.read(text).order.labels
        if ":" in label
    }
    assert listed == set(get_args(Role))


@pytest.mark.parametrize(
    ("case", "labels"),
    [
        ("os-one", ["disk:vda"]),
        ("os-four", ["floppy:fda", "cdrom:hda", "network:52:54:00:aa:00:01", "disk:vda"]),
        ("os-none", ["disk:vda"]),
        ("os-repeated", ["network:52:54:00:aa:00:01", "disk:vda"]),
        ("no-devices", ["hd"]),
        (
            "device-gaps",
            [
                *("floppy:fda", "hostdev:0000:03:00.1", "hostdev:1234:beef", "disk:vda"),
                *("redirdev:0", "network:52:54:00:aa:00:01", "cdrom:hda"),
                *("hostdev:scsi:scsi_host0:0:0:1", "redirdev:1"),
            ],
        ),
        (
            "device-same-mac",
            ["network:52:54:00:aa:00:01#2", "disk:vda", "network:52:54:00:aa:00:01"],
        ),
        ("noted-device", ["network:52:54:00:aa:00:01", "cdrom:hda", "disk:vda"]),
    ],
)
def test_labels(case: str, labels: list[str]) -> None:
    assert list(order.read(golden_input(case)).order.labels) == labels


@pytest.mark.parametrize(
    ("case", "default"),
    [
        ("os-one", "os hd=1"),
        ("device-gaps", None),
        ("noted-device", "device disk:vda=5 cdrom:hda=9"),
        ("noted-os", "os hd=1"),
        ("noted-changed-since", "device cdrom:hda=1 disk:vda=2"),
        ("noted-other-kind-since", "os network=1 hd=2"),
        ("noted-device-gone", "device disk:vda=5"),
        ("noted-unreadable", "os network=1 hd=2"),
    ],
)
def test_default_is_the_noted_order_unless_someone_else_has_set_one(
    case: str, default: str | None
) -> None:
    boot = order.read(golden_input(case))
    assert boot.default == (Order.parse(default) if default else boot.order)


def test_default_of_kind_os_is_labelled_by_the_devices() -> None:
    assert order.read(golden_input("noted-os")).default.labels == ("disk:vda",)


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("", "not well-formed"),
        ("<domain>", "not well-formed"),
        ("<domain>&nbsp;</domain>", "not well-formed"),
        ("<domain>\udcff</domain>", "not well-formed"),
        ("<domain>\ud800</domain>", "not well-formed"),
        ("<!DOCTYPE domain>" + minimal(""), "DOCTYPE"),
        ('<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/hostname">]><domain>&e;</domain>', "DOCTYPE"),
        ("<network/>", "no <domain>: its root is 'network'"),
        ("<domain/>", "only an <os> of type hvm"),
        ("<domain><os/></domain>", "only an <os> of type hvm"),
        ("<domain xmlns='urn:x'/>", "no <domain>"),
        (minimal("<boot order='1'/>", "<boot dev='hd'/>"), "cannot be used together"),
        *(
            (minimal(f"<boot{attribute}/>"), "of disk:vda is no positive number")
            for attribute in (
                *(" order='0'", " order='-1'", " order='x'", ""),
                f" order='{'9' * 5000}'",
            )
        ),
    ],
)
def test_what_has_no_boot_order_is_refused(xml: str, reason: str) -> None:
    for call in (
        lambda: order.read(xml),
        lambda: order.with_order(xml, "disk"),
        lambda: order.with_order(xml, "default"),
        lambda: order.with_once(xml, "disk"),
        lambda: order.with_once(xml, None),
        lambda: order.booting(xml, "disk"),
    ):
        with pytest.raises(CannotBoot, match=re.escape(reason)) as caught:
            call()
        assert caught.value.reason == str(caught.value)


def test_entities_that_grow_are_not_expanded() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 50}">' for n in range(1, 12))
    xml = f'<!DOCTYPE d [<!ENTITY e0 "{"x" * 50}">{entities}]><domain a="&e11;"/>'
    with pytest.raises(CannotBoot):
        order.read(xml)


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16", "ISO-8859-1"])
def test_the_declared_encoding_was_that_of_the_bytes(encoding: str) -> None:
    xml = f"<?xml version='1.0' encoding='{encoding}'?>{minimal('', target='vdä')}"
    assert order.read(xml).order.labels == ("disk:vdä",)


def test_disk_that_is_named_oddly_is_restored() -> None:
    first = minimal("<boot order='4'/>", target="v =%&lt;&quot;ä").replace(
        "</devices>", "<interface><mac address='x'/></interface></devices>"
    )
    second = order.with_order(first, "pxe")
    assert order.read(second).default == order.read(first).order
    assert without_note(order.with_order(second, "default")) == first


@pytest.mark.parametrize(
    "case", ["os-one", "device-unlisted", "noted-device", "metadata-of-others"]
)
@pytest.mark.parametrize("device", DEVICES)
def test_one_time_boot(case: str, device: Device) -> None:
    xml = golden_input(case)
    marked = order.with_once(xml, device)
    before, after, once = map(order.read, (xml, marked, order.booting(marked, device)))
    assert (after.order, after.default, after.once) == (before.order, before.default, device)
    assert once.once is None
    assert once.default == before.default
    assert once.order == order.read(order.with_order(xml, device)).order
    assert order.is_ours(marked)
    assert order.is_ours(order.booting(xml, device))
    assert order.with_once(marked, None) == xml


def test_one_time_device_that_the_machine_lacks_is_refused() -> None:
    xml = golden_input("device-network-only")
    for call in (order.with_once, order.booting):
        with pytest.raises(CannotBoot, match="no disk"):
            call(xml, "disk")
    assert not order.is_ours(xml)


def test_mark_stays_when_the_order_is_set() -> None:
    boot = order.read(order.with_order(golden_input("noted-once"), "disk"))
    assert (boot.order.names, boot.once) == (("hd", "cdrom"), "pxe")


def test_unknown_mark_is_none() -> None:
    xml = golden_input("noted-once").replace('once="pxe"', 'once="tape"')
    assert order.read(xml).once is None
    assert 'once="' not in order.with_once(xml, None)


def test_clearing_the_only_mark_takes_an_empty_metadata_along() -> None:
    xml = golden_input("metadata-empty")
    cleared = order.with_once(order.with_once(xml, "pxe"), None)
    assert cleared == xml.replace("  <metadata/>\n", "")


def test_text_in_the_metadata_stays() -> None:
    xml = golden_input("metadata-empty").replace("<metadata/>", "<metadata>words</metadata>")
    marked = order.with_once(xml, "pxe")
    assert "words</metadata>" in marked
    assert order.with_once(marked, None) == xml


def test_other_attributes_of_os_boot_stay_with_their_word() -> None:
    xml = minimal("", '<boot loadparm="L"  dev="network"/><boot dev = "hd"/>')
    assert '<boot dev = "hd"/><boot loadparm="L"  dev="network"/>' in order.with_order(xml, "disk")


def test_order_of_the_guest_is_kept_by_a_machine_that_boots_its_kernel() -> None:
    xml = golden_input("kernel")
    assert order.read(xml).order.labels == ("disk:vda",)
    assert order.with_order(xml, "default") is xml


# Rules, on domains of every shape.


@settings(deadline=None)
@given(domains.domains(), st.sampled_from(DEVICES))
def test_device_comes_first_and_the_others_keep_their_order(xml: str, device: Device) -> None:
    result = changed(xml, device)
    assume(result is not None)
    assert result is not None
    before, after = order.read(xml).order, order.read(result).order
    assert after.kind == before.kind
    joined = [name for name in after.names if name not in before.names]
    assert joined in ([], [after.names[0]])
    role = {"pxe": "network", "disk": "disk", "cdrom": "cdrom"}[device]
    assert after.labels[0].startswith(f"{role}:")
    # `sorted` is stable: in front and behind, each in its old order.
    front = [name for name in after.names if name in first_names(xml, after, role)]
    kept = [name for name in before.names if name not in front]
    assert list(after.names) == front + kept
    assert [name for name in before.names if name in front] == front[len(joined) :]
    numbers = [number for _, number in after.places]
    assert max(Counter(numbers).values()) == 1
    assert after == before or numbers == list(range(1, len(numbers) + 1))


def first_names(xml: str, boot_order: Order, role: str) -> set[str]:
    """What is to be in front: the role's word, or the devices of the role that have a boot ROM."""
    if boot_order.kind == "os":
        return {"hd" if role == "disk" else role}
    without_rom = re.findall(
        r"address=\"([^\"]*)\"(?:(?!</interface>).)*<rom (?:enabled='no'|bar=\"off\")",
        xml,
        re.DOTALL,
    )
    labels = {name for name in boot_order.names if name.startswith(f"{role}:")}
    return labels - {f"network:{mac}" for mac in without_rom}


@settings(deadline=None)
@given(domains.domains(), st.sampled_from(DEVICES))
def test_nothing_else_changes(xml: str, device: Device) -> None:
    result = changed(xml, device)
    assume(result is not None)
    assert result is not None
    for text in (result, order.booting(xml, device), order.with_once(xml, device)):
        assert without_boot(text) == without_boot(xml)
        assert traps(text) == traps(xml)
    assert without_note(order.with_once(xml, device)) == without_note(xml)


@settings(deadline=None)
@given(domains.domains(), st.sampled_from(DEVICES))
def test_second_rewrite_returns_its_argument(xml: str, device: Device) -> None:
    once = changed(xml, device)
    assume(once is not None)
    assert once is not None
    assert order.with_order(once, device) is once
    marked = order.with_once(xml, device)
    assert order.with_once(marked, device) is marked
    assert order.with_once(xml, None) is xml


@settings(deadline=None)
@given(domains.domains(), st.lists(st.sampled_from([*DEVICES, "default"]), max_size=6))
def test_default_brings_back_the_first_order(xml: str, devices: list[str]) -> None:
    first = order.read(xml).order
    text = xml
    for device in devices:
        text = changed(text, device) or text
        assert order.read(text).default == first
    restored = order.with_order(text, "default")
    assert order.read(restored).order == first
    assert not order.is_ours(restored)
    assert without_boot(restored) == without_boot(xml)
    if first.kind == "device":
        assert without_note(restored) == without_note(xml)


@settings(deadline=None)
@given(domains.domains(), st.sampled_from(DEVICES), st.sampled_from(DEVICES))
def test_mark_set_and_cleared_leaves_no_trace(xml: str, device: Device, other: Device) -> None:
    for start in (xml, changed(xml, other) or xml):
        try:
            marked = order.with_once(start, device)
        except CannotBoot:
            assert changed(start, device) is None
        else:
            assert order.read(marked).once == device
            assert order.with_once(marked, None) == start


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.text(), st.integers(min_value=1, max_value=(1 << 32) - 1)),
        unique_by=lambda place: place[1],
    )
)
def test_text_form_of_devices_is_parsed_back(places: list[tuple[str, int]]) -> None:
    value = Order("device", tuple(places))
    assert Order.parse(str(value)) == value
    assert re.fullmatch(r"[!#-;=?-~ ]+", str(value)), "needs no escape in XML"


@settings(deadline=None)
@given(st.lists(st.sampled_from(["hd", "network", "cdrom", "fd"])))
def test_text_form_of_words_is_parsed_back(words: list[str]) -> None:
    assert Order.parse(str(Order.of("os", words))) == Order.of("os", words)


@pytest.mark.parametrize("text", ["", "os hd", "os tape=1", "device a=0", "device a=", "disk a=1"])
def test_other_text_is_no_order(text: str) -> None:
    with pytest.raises(ValueError):
        Order.parse(text)


# What libvirt makes of the results. The QEMU of the laboratory is one for x86; machines of others,
# and of other hypervisors, are judged by libvirt's test driver, which has the same XML parser and
# the same schema, but knows nothing of the hardware.

TEST_DRIVER = Virsh("test:///default", {"PATH": os.environ["PATH"], "LC_ALL": "C"})


class Libvirt:
    """Where a case can be defined; `redump` gives back the inactive XML as libvirt has it then."""

    def __init__(self, lab: Laboratory, folder: Path, case: str) -> None:
        self._file = folder / "domain.xml"
        self._case = case
        self._lab = lab
        self._qemu = re.search(r"\stype\s*=\s*[\"']qemu", golden_input(case)) is not None

    def redump(self, xml: str) -> str:
        name = self._case
        if not self._qemu:
            text = re.sub(r"<domain type='\w+'", "<domain type='test'", xml, count=1)
            self._file.write_bytes(text.encode())
            return TEST_DRIVER(f"define --validate {self._file}; dumpxml --inactive {name}")
        self._file.write_bytes(xml.encode())
        # One virsh for all. Its exit code is that of the last, which fails if the first did.
        return self._lab.virsh(
            f"define --validate {self._file}; dumpxml --inactive --security-info {name}; "
            f"undefine --nvram {name}"
        )


@pytest.mark.parametrize("case", CASES)
def test_libvirt_accepts_every_result(lab: Laboratory, tmp_path: Path, case: str) -> None:
    libvirt = Libvirt(lab, tmp_path, case)
    for text in [text for each, text in results() if each == case]:
        libvirt.redump(text)


@pytest.mark.parametrize(("case", "device"), PAIRS)
def test_dump_rewritten_and_defined_is_dumped_as_it_was_written(
    lab: Laboratory, tmp_path: Path, case: str, device: str
) -> None:
    """Byte for byte: what libvirt makes of it is what was shown to it, the note included."""
    libvirt = Libvirt(lab, tmp_path, case)
    dump = libvirt.redump(golden_input(case))
    new = changed(dump, device)
    assert (new is None) == (changed(golden_input(case), device) is None)
    if new is None or new is dump:
        return
    now = libvirt.redump(new)
    assert now == new, difference(new, now, "written")


@pytest.mark.parametrize("case", CASES)
def test_mark_survives_define_and_leaves_no_trace(
    lab: Laboratory, tmp_path: Path, case: str
) -> None:
    libvirt = Libvirt(lab, tmp_path, case)
    dump = libvirt.redump(golden_input(case))
    for device in DEVICES:
        if changed(dump, device) is not None:
            marked = order.with_once(dump, device)
            assert libvirt.redump(marked) == marked
            cleared = libvirt.redump(order.with_once(marked, None))
            # An empty metadata and a note that says nothing readable are not brought back.
            assert cleared in (order.with_once(dump, None), without_note(dump))
            return
