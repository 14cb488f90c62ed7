"""What a machine boots by, on machines as they are: passed-through devices, and what people do."""

import re
from collections.abc import Callable, Iterator

import pytest

from tests.booting import (
    CONFLICT,
    OK,
    Define,
    boot,
    get_boot,
    machines,
    put_boot,
    set_boot,
)
from tests.daemon import Daemon
from tests.lab import Key, Laboratory, Nic

NVME, SATA, LAN, GPU, UNKNOWN = (f"0000:0{bus}:00.0" for bus in range(4, 9))
CLASSES = {NVME: "0x010802", SATA: "0x010601", LAN: "0x020000", GPU: "0x030000"}


def node_device(address: str, pci_class: str) -> str:
    name = "pci_" + re.sub("[:.]", "_", address)
    bus = int(address[5:7], 16)
    return f"""
  <device>
    <name>{name}</name>
    <parent>computer</parent>
    <capability type='pci'>
      <class>{pci_class}</class>
      <domain>0</domain><bus>{bus}</bus><slot>0</slot><function>0</function>
      <product id='0x0001'>one</product><vendor id='0x0002'>two</vendor>
    </capability>
  </device>"""


def passed_through(address: str, boot: str = "") -> str:
    bus = address[5:7]
    return f"""
      <hostdev mode='subsystem' type='pci' managed='yes'>
        <source><address domain='0x0000' bus='0x{bus}' slot='0x00' function='0x0'/></source>
        {boot}
      </hostdev>"""


def disk(boot: str = "") -> str:
    return f"<disk><source file='/vda.img'/><target dev='vda'/>{boot}</disk>"


def nic(boot: str = "", inside: str = "") -> str:
    return f"<interface type='user'><mac address='52:54:00:00:00:01'/>{inside}{boot}</interface>"


FIRST, SECOND = "<boot order='1'/>", "<boot order='2'/>"
MACHINES = {
    "nvme": disk() + passed_through(NVME, FIRST) + passed_through(GPU),
    "nvme-and-disk": disk(SECOND) + passed_through(NVME, FIRST),
    "router": disk(FIRST) + passed_through(LAN),
    "router-listed": disk(SECOND) + nic() + passed_through(LAN, FIRST),
    "gpu": disk() + passed_through(GPU, FIRST),
    "unknown": disk() + nic() + passed_through(UNKNOWN, FIRST),
    "unknown-last": disk(FIRST) + passed_through(UNKNOWN),
    "os-router": disk() + passed_through(LAN),
    "no-rom": disk(FIRST) + nic(inside="<rom file=''/>"),
}
VDA, MAC = "disk:vda", "network:52:54:00:00:00:01"
CASES = {
    ("nvme", "disk"): [f"hostdev:{NVME}"],
    ("nvme-and-disk", "disk"): [f"hostdev:{NVME}", VDA],
    ("router", "pxe"): [f"hostdev:{LAN}", VDA],
    ("router-listed", "pxe"): [f"hostdev:{LAN}", VDA],
    ("router-listed", "disk"): [VDA, f"hostdev:{LAN}"],
    ("gpu", "disk"): [VDA, f"hostdev:{GPU}"],
    ("unknown", "disk"): "cannot tell what",
    ("unknown", "pxe"): "cannot tell what",
    ("unknown-last", "disk"): [VDA],
    ("os-router", "pxe"): "passed through",
    ("no-rom", "pxe"): "boot ROM",
}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on the test hypervisor, of a host with such devices."""
    folder = tmp_path_factory.mktemp("devices")
    domains = [
        f"<domain type='test'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os>"
        f"<devices>{devices}</devices></domain>"
        for name, devices in MACHINES.items()
    ]
    devices = [node_device(*each) for each in CLASSES.items()]
    file = folder / "node.xml"
    file.write_text("<node>" + "".join([*domains, *devices]) + "</node>")
    with Daemon("--connect", f"test://{file}", "--backup-dir", str(folder / "kept")) as daemon:
        yield daemon


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize(("name", "device"), CASES)
def test_passed_through_device_is_what_its_class_says(
    embedded: Daemon, name: str, device: str, once: bool
) -> None:
    expected = CASES[name, device]
    body = f'{{"device": "{device}", "once": {str(once).lower()}}}'.encode()
    answer = embedded.request("PUT", f"/service/{name}/boot", body)
    if isinstance(expected, str):
        assert answer.status == CONFLICT, answer
        assert expected in answer.json["detail"]
        return
    assert answer.status == OK, answer
    if once:
        assert answer.json["once"] == device
        assert embedded.request("PUT", f"/service/{name}/boot", b'{"device": "none"}').status == OK
    else:
        assert answer.json["order"] == expected
        assert answer.json["device"] == device
        embedded.request("PUT", f"/service/{name}/boot", b'{"device": "default"}')


# What people do to a machine whose order this controller has set.


@pytest.fixture(scope="module")
def daemon(lab: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    backups = tmp_path_factory.mktemp("devices") / "backups"
    with Daemon("--connect", lab.uri, "--backup-dir", str(backups)) as daemon:
        yield daemon


@pytest.fixture
def define(lab: Laboratory) -> Iterator[Define]:
    with machines(lab) as define:
        yield define


def with_another_mac(xml: str) -> str:
    return re.sub(r"<mac address='52:54:00:\w\w", "<mac address='52:54:00:7e", xml)


def with_another_target(xml: str) -> str:
    return xml.replace("dev='hda' bus='ide'", "dev='hdc' bus='ide'")


def with_another_bus(xml: str) -> str:
    return re.sub(
        "dev='hda' bus='ide'/>(.*?)<address .*?/>",
        r"dev='vda' bus='virtio'/>\1",
        xml,
        count=1,
        flags=re.DOTALL,
    )


def renumbered(xml: str) -> str:
    return re.sub(r"<boot order='(\d+)'/>", r"<boot order='\g<1>0'/>", xml)


@pytest.mark.parametrize(
    "change",
    [
        with_another_mac,
        with_another_target,
        with_another_bus,
        renumbered,
        lambda xml: with_another_mac(with_another_bus(xml)),
    ],
)
def test_default_survives_what_people_do(define: Define, daemon: Daemon, change: object) -> None:
    machine = define(boot="device", boot_order=["disk"])
    set_boot(daemon, machine, "pxe")
    assert callable(change)
    changed = change(machine.xml())
    assert changed != machine.xml()
    machine.redefine(changed)
    status = get_boot(daemon, machine)
    assert status["device"] == "pxe"
    assert [label.partition(":")[0] for label in status["order"]] == ["network", "disk"]
    assert status["default"] == status["order"][1:]
    boot(daemon, machine, "defaultboot")
    machine.wait_for_boots("disk")
    assert get_boot(daemon, machine)["order"] == status["default"]


def test_default_survives_a_clone(lab: Laboratory, define: Define, daemon: Daemon) -> None:
    machine = define(boot="device", boot_order=["disk"])
    set_boot(daemon, machine, "pxe")
    xml = re.sub("<uuid>.*?</uuid>|<mac .*?/>", "", machine.xml())
    xml = xml.replace(f"<name>{machine.name}<", f"<name>{machine.name}-clone<")
    lab.virsh("define", "--file", str(lab.file("clone.xml", xml.encode())))
    try:
        answer = daemon.get(f"/service/{machine.name}-clone/boot").json
        assert answer["default"] == ["disk:hda"]
        answer = daemon.request(
            "PUT", f"/service/{machine.name}-clone/boot", b'{"device": "default"}'
        )
        assert answer.json["order"] == ["disk:hda"]
    finally:
        lab.virsh("undefine", f"{machine.name}-clone")


def with_macs_swapped(xml: str) -> str:
    first, second = re.findall(r"<mac address='(.*?)'", xml)
    return xml.replace(first, "?").replace(second, first).replace("?", second)


def with_a_cdrom_behind(xml: str) -> str:
    cdrom = "<disk device='cdrom'><target dev='hdd' bus='ide'/><boot order='9'/></disk>"
    return xml.replace("</devices>", cdrom + "</devices>")


@pytest.mark.parametrize("change", [with_macs_swapped, with_a_cdrom_behind])
def test_default_survives_names_that_move_and_what_is_added(
    define: Define, daemon: Daemon, change: Callable[[str], str]
) -> None:
    machine = define(add=[Nic(), Nic("lan")], boot="device", boot_order=["disk", "network", "lan"])
    set_boot(daemon, machine, "pxe")
    machine.redefine(change(machine.xml()))
    roles = [label.partition(":")[0] for label in get_boot(daemon, machine)["default"]]
    assert roles[:3] == ["disk", "network", "network"]
    assert roles[3:] == (["cdrom"] if change is with_a_cdrom_behind else [])


def test_clone_of_a_marked_machine_has_no_mark(
    lab: Laboratory, define: Define, daemon: Daemon
) -> None:
    machine = define()
    set_boot(daemon, machine, "pxe", once=True)
    xml = re.sub("<uuid>.*?</uuid>|<mac .*?/>", "", machine.xml())
    xml = xml.replace(f"<name>{machine.name}<", f"<name>{machine.name}-clone<")
    lab.virsh("define", "--file", str(lab.file("clone.xml", xml.encode())))
    try:
        assert daemon.get(f"/service/{machine.name}-clone/boot").json["once"] is None
        assert get_boot(daemon, machine)["once"] == "pxe"
    finally:
        lab.virsh("undefine", f"{machine.name}-clone")


@pytest.mark.parametrize(
    "broken", ["device disk:hda=7 cdrom:hdc=7", "device disk:hda=99999999999", "os hd", "?"]
)
def test_note_that_cannot_be_understood_counts_as_missing(
    define: Define, daemon: Daemon, broken: str
) -> None:
    machine = define(boot="device")
    set_boot(daemon, machine, "pxe")
    machine.redefine(re.sub(' default="[^"]*"', f' default="{broken}"', machine.xml()))
    status = get_boot(daemon, machine)
    assert status["default"] == status["order"]
    boot(daemon, machine, "defaultboot")
    machine.wait_for_boots("network")


def test_device_that_was_asked_for_and_is_gone_is_not_told(define: Define, daemon: Daemon) -> None:
    machine = define(boot="device")
    set_boot(daemon, machine, "pxe")
    assert get_boot(daemon, machine)["device"] == "pxe"
    machine.redefine(re.sub(r"<interface.*?</interface>", "", machine.xml(), flags=re.DOTALL))
    assert get_boot(daemon, machine)["device"] is None


def test_what_libvirt_leaves_out_is_no_pending_order(
    lab: Laboratory, define: Define, daemon: Daemon
) -> None:
    """A disk that may be missing, and is."""
    machine = define(boot="device", boot_order=["network", "disk"])
    optional = (
        "<disk device='cdrom'><source file='/nowhere.iso' startupPolicy='optional'/>"
        "<target dev='hdd' bus='ide'/><readonly/><boot order='9'/></disk></devices>"
    )
    machine.redefine(machine.xml().replace("</devices>", optional))
    boot(daemon, machine, "diskboot")
    machine.wait_for_boots("disk")
    process = machine.qemu_pid()
    assert not get_boot(daemon, machine)["pending"]
    boot(daemon, machine, "force_reset")
    machine.wait_for_boots("disk", "disk")
    machine.press(Key.REBOOT)
    machine.wait_for_boots("disk", "disk", "disk")
    assert daemon.act(machine.name, "nmi").status == OK
    assert machine.qemu_pid() == process


def test_order_that_somebody_else_has_set_is_the_default(define: Define, daemon: Daemon) -> None:
    machine = define(add=[Nic(), Nic("lan")], boot="device", boot_order=["disk", "network"])
    set_boot(daemon, machine, "pxe")
    theirs = machine.xml().replace("order='1'", "order='9'")
    machine.redefine(theirs)
    status = get_boot(daemon, machine)
    assert status["device"] is None
    assert status["default"] == status["order"]


def test_device_that_was_asked_for_is_told(define: Define, daemon: Daemon) -> None:
    """Also where the order was so before."""
    machine = define(boot_order=["network", "disk"])
    first = machine.xml()
    answer = put_boot(daemon, machine, device="pxe")
    assert (answer.status, answer.json["changed"], answer.json["device"]) == (OK, False, "pxe")
    set_boot(daemon, machine, "disk")
    assert get_boot(daemon, machine)["device"] == "disk"
    set_boot(daemon, machine, "default")
    assert get_boot(daemon, machine)["device"] is None
    assert machine.xml() == first


# What libvirt's schema refuses, and libvirt runs.


ODDITIES = {
    "rom": ("</devices>", "<interface type='user'><rom file=''/></interface></devices>"),
    "listen": ("</devices>", "<graphics type='vnc' port='-1' listen='*'/></devices>"),
    "deprecation": (
        "</devices>",
        "</devices><qemu:deprecation behavior='omit'/>",
    ),
    "partition": ("<os>", "<resource><partition>machine</partition></resource><os>"),
    "image": (
        "</devices>",
        "<disk device='cdrom'><source file='a b.iso'/>"
        "<target dev='hdd' bus='ide'/></disk></devices>",
    ),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_schema_is_no_judge_of_what_was_there(
    lab: Laboratory, define: Define, daemon: Daemon, oddity: str
) -> None:
    machine = define(boot="device")
    old, new = ODDITIES[oddity]
    odd = machine.xml().replace(old, new, 1)
    lab.virsh("define", "--file", str(lab.file(f"{oddity}.xml", odd.encode())))
    for device in ("pxe", "disk", "default"):
        for once in (True, False):
            assert put_boot(daemon, machine, device=device, once=once).status == OK
    if oddity in ("rom", "deprecation", "partition"):
        boot(daemon, machine, "pxeboot", once="true")
        machine.wait_for_boots("network")


def test_refusal_of_libvirt_names_no_file_of_ours(define: Define, daemon: Daemon) -> None:
    machine = define(boot="device")
    set_boot(daemon, machine, "pxe", once=True)
    machine.disk.rename(machine.disk.with_suffix(".away"))
    answer = daemon.act(machine.name, "power_on")
    assert answer.status == CONFLICT
    assert "No such file or directory" in answer.json["detail"]
    assert "/dev/fd" not in answer.json["detail"]
