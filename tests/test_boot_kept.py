"""What the boot verbs leave alone, what they refuse, and the backups: nothing is ever lost."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mc.domain_xml import order
from tests.booting import (
    BAD_REQUEST,
    CONFLICT,
    NOT_WRITTEN,
    OK,
    Define,
    boot,
    boot_elements,
    commands,
    get_boot,
    machines,
    put_boot,
    set_boot,
)
from tests.daemon import Answer, Daemon
from tests.domains import without_boot
from tests.lab import Laboratory, Machine, Nic

VNC = "<graphics type='vnc' autoport='yes' passwd='geheim&lt;'/>"
HAS_IT = "passwd='geheim&lt;'"
OTHERS = "urn:others:1"
ALL_BOOT_VERBS = ["pxeboot", "diskboot", "defaultboot"]


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "state" / "backups"


@pytest.fixture(scope="module")
def daemon(lab: Laboratory, backups: Path) -> Iterator[Daemon]:
    with Daemon("--connect", lab.uri, "--backup-dir", str(backups)) as daemon:
        yield daemon


@pytest.fixture
def define(lab: Laboratory) -> Iterator[Define]:
    with machines(lab) as define:
        yield define


def backups_of(folder: Path, machine: Machine) -> list[Path]:
    """The oldest first."""
    return sorted(folder.glob(f"{machine.name}.xml.*"))


# What stays.


def test_password_is_there_after_ten_boot_verbs(define: Define, daemon: Daemon) -> None:
    machine = define(devices=VNC)
    first = machine.xml()
    assert HAS_IT in first
    for number in range(10):
        boot(daemon, machine, ALL_BOOT_VERBS[number % 3], grace=0, once=str(number % 2))
        assert without_boot(machine.xml()) == without_boot(first)
        assert HAS_IT in machine.virsh("dumpxml", "--security-info")
    put_boot(daemon, machine, device="default")
    assert boot_elements(machine.xml()) == boot_elements(first)


def test_all_that_hangs_on_a_machine_stays(lab: Laboratory, define: Define, daemon: Daemon) -> None:
    """On a machine that is not started: the laboratory has no UEFI."""
    machine = define(
        add=[Nic(), Nic("lan")],
        boot="device",
        boot_order=["disk", "lan"],
        elements="<title>A &amp; B</title><description>&lt;boot order='1'/&gt;</description>",
    )
    loader = "<loader readonly='yes' type='pflash'>/no/code.fd</loader><nvram>/no/vars.fd</nvram>"
    machine.redefine(machine.xml().replace("</type>", f"</type>{loader}", 1))
    note = "<a b='1>2'>&amp;</a>"
    machine.virsh("metadata", "--uri", OTHERS, "--key", "o", "--set", note, "--config")
    machine.virsh("autostart")
    add_snapshot(lab, machine)
    first = machine.xml()
    for device in ("pxe", "disk", "pxe", "default"):
        for once in (False, True):
            answer = put_boot(daemon, machine, device=device, once=once)
            assert answer.status == OK, answer
            assert without_boot(machine.xml()) == without_boot(first)
    assert boot_elements(machine.xml()) == boot_elements(first)
    assert "/no/vars.fd</nvram>" in machine.xml()
    assert "<a b=" in machine.virsh("metadata", "--uri", OTHERS, "--config")
    assert re.search(r"Autostart: +enable\n", machine.virsh("dominfo"))
    assert machine.virsh("snapshot-list", "--name").split() == ["before"]
    assert machine.virsh("desc", "--title").strip() == "A & B"


def add_snapshot(lab: Laboratory, machine: Machine) -> None:
    """Only what libvirt knows of a snapshot: there is nothing of it on the disk."""
    time = "<creationTime>1700000000</creationTime>"
    head = f"<domainsnapshot><name>before</name><state>shutoff</state>{time}"
    file = lab.file("snapshot.xml", f"{head}{machine.xml()}</domainsnapshot>".encode())
    machine.virsh("snapshot-create", "--redefine", str(file))


# Backups.


def test_backup_before_each_define_takes_the_old_order_back(
    define: Define, daemon: Daemon, backups: Path
) -> None:
    machine = define(boot="device", devices=VNC)
    states = []
    for number, device in enumerate(("pxe", "disk", "default"), 1):
        states.append(machine.xml())
        with commands(daemon) as given:
            set_boot(daemon, machine, device)
        assert given == ["define"]
        assert len(backups_of(backups, machine)) == number
    saved = backups_of(backups, machine)
    assert [file.read_text("utf-8") for file in saved] == states
    assert {file.stat().st_mode & 0o777 for file in saved} == {0o600}
    assert backups.stat().st_mode & 0o777 == 0o700
    for file, state in zip(saved, states, strict=True):
        machine.redefine(file.read_text("utf-8"))
        assert machine.xml() == state


def test_one_time_boot_is_backed_up_too(define: Define, daemon: Daemon, backups: Path) -> None:
    machine = define()
    first = machine.xml()
    with commands(daemon) as given:
        boot(daemon, machine, "pxeboot", once="true")
    assert given == ["define", "define", "create"]
    saved = [file.read_text("utf-8") for file in backups_of(backups, machine)]
    assert saved == [first]


def test_no_backup_holds_a_mark(define: Define, daemon: Daemon, backups: Path) -> None:
    """One that is taken back must not boot the network again."""
    machine = define()
    first = machine.xml()
    set_boot(daemon, machine, "pxe", once=True)
    set_boot(daemon, machine, "disk", once=True)
    set_boot(daemon, machine, "pxe")
    boot(daemon, machine, "pxeboot", once="true")
    set_boot(daemon, machine, "disk")
    saved = [file.read_text("utf-8") for file in backups_of(backups, machine)]
    assert len(saved) == 5
    assert saved[:3] == [first] * 3
    for text in saved:
        marks = (order.read(text).once, order.read(text).begun)
        assert (marks, order.read(text).running) == ((None, None), None)


@pytest.fixture
def blocked(lab: Laboratory, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that cannot write a backup, not even as root: there is a file in the way."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "backups"
    with Daemon("--connect", lab.uri, "--backup-dir", str(folder)) as daemon:
        yield daemon


def not_written(answer: Answer) -> None:
    assert answer.status == NOT_WRITTEN, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Not a directory" in answer.json["detail"]


def test_no_backup_no_change(define: Define, blocked: Daemon) -> None:
    machine = define()
    machine.boot()
    first, process = machine.xml(), machine.qemu_pid()
    with commands(blocked) as given:
        not_written(put_boot(blocked, machine, device="pxe"))
        not_written(put_boot(blocked, machine, device="pxe", once=True))
        not_written(blocked.act(machine.name, "pxeboot"))
        not_written(blocked.act(machine.name, "pxeboot", "?once=true"))
    assert given == []
    assert (machine.xml(), machine.qemu_pid()) == (first, process)
    # Where there is nothing to change none is needed.
    boot(blocked, machine, "diskboot")
    machine.wait_for_boots("disk", "disk")


def test_no_backup_and_the_saved_image_stays(define: Define, blocked: Daemon) -> None:
    machine = define()
    save(machine)
    not_written(blocked.act(machine.name, "pxeboot", "?discard_saved=true"))
    not_written(put_boot(blocked, machine, device="pxe", discard_saved=True))
    assert re.search(r"Managed save: +yes\n", machine.virsh("dominfo"))


def test_one_time_boot_that_is_set_needs_no_backup_to_begin_or_to_be_taken_back(
    define: Define, daemon: Daemon, blocked: Daemon
) -> None:
    machine = define()
    first = machine.xml()
    set_boot(daemon, machine, "pxe", once=True)
    boot(blocked, machine, "power_on")
    machine.wait_for_boots("network")
    set_boot(daemon, machine, "pxe", once=True)
    set_boot(blocked, machine, "none")
    boot(blocked, machine, "power_cycle")
    machine.wait_for_boots("network", "disk")
    assert machine.xml() == first


# Refusals: nothing is done at all.


def save(machine: Machine) -> None:
    machine.boot()
    machine.virsh("managedsave")
    machine.wait_for_state("shut off (saved)")


def boots_a_kernel(machine: Machine) -> None:
    kernel = f"</type><kernel>{machine.disk}</kernel>"
    machine.redefine(machine.xml().replace("</type>", kernel, 1))


def becomes_transient(machine: Machine) -> None:
    machine.boot()
    machine.virsh("undefine")


def stays(machine: Machine) -> None:
    pass


CANNOT: dict[str, tuple[dict[str, object], Callable[[Machine], None], str]] = {
    "no card": ({"add": []}, stays, "no interface"),
    "no card, device": ({"add": [], "boot": "device"}, stays, "no interface"),
    "no ROM": ({"add": [Nic(rom="none")]}, stays, "ROM"),
    "no ROM, device": ({"add": [Nic(rom="none")], "boot": "device"}, stays, "ROM"),
    "running, no ROM": ({"add": [Nic(rom="none")]}, Machine.boot, "ROM"),
    "kernel": ({}, boots_a_kernel, "<kernel>"),
    "transient": ({}, becomes_transient, "transient"),
    "saved": ({}, save, "discard_saved"),
}


@pytest.mark.parametrize("why", CANNOT)
def test_refusal_changes_nothing(define: Define, daemon: Daemon, backups: Path, why: str) -> None:
    arguments, prepare, words = CANNOT[why]
    machine = define(**arguments)
    prepare(machine)
    before = machine.xml(), machine.state_and_reason()
    with commands(daemon) as given:
        answers = [
            put_boot(daemon, machine, device="pxe"),
            put_boot(daemon, machine, device="pxe", once=True),
            daemon.act(machine.name, "pxeboot"),
            daemon.act(machine.name, "pxeboot", "?once=true&grace=0"),
        ]
    for answer in answers:
        assert answer.status == CONFLICT, answer
        assert answer.headers["content-type"] == "application/problem+json"
        assert words in answer.json["detail"]
        assert "done" not in answer.json
    assert given == []
    assert (machine.xml(), machine.state_and_reason()) == before
    assert not backups_of(backups, machine)


def test_refusal_names_the_machine(define: Define, daemon: Daemon) -> None:
    machine = define(add=[])
    assert daemon.act(machine.name, "pxeboot").json["uuid"] == machine.uuid
    assert put_boot(daemon, machine, device="pxe").json["uuid"] == machine.uuid


def test_saved_image_is_given_up_when_that_is_asked_for(define: Define, daemon: Daemon) -> None:
    machine = define()
    save(machine)
    boot(daemon, machine, "pxeboot", discard_saved="true")
    machine.wait_for_boots("disk", "network")
    assert machine.state_and_reason() == "running (booted)"
    machine.virsh("managedsave")
    set_once = put_boot(daemon, machine, device="disk", once=True, discard_saved=True)
    assert set_once.status == OK, set_once
    boot(daemon, machine, "power_on")
    machine.wait_for_boots("disk", "network", "disk")


def test_mark_waits_while_a_saved_image_goes_on(define: Define, daemon: Daemon) -> None:
    machine = define()
    machine.boot()
    set_boot(daemon, machine, "pxe", once=True)
    machine.virsh("managedsave")
    boot(daemon, machine, "power_on")
    assert machine.state_and_reason() == "running (restored)"
    assert (machine.boots, get_boot(daemon, machine)["once"]) == (1, "pxe")
    boot(daemon, machine, "force_reset")
    machine.wait_for_boots("disk", "network")
    assert get_boot(daemon, machine)["once"] is None


def test_mark_taken_back_leaves_the_order_and_a_saved_image(define: Define, daemon: Daemon) -> None:
    machine = define()
    first = machine.xml()
    machine.boot()
    set_boot(daemon, machine, "pxe", once=True)
    machine.virsh("managedsave")
    set_boot(daemon, machine, "none")
    assert machine.xml() == first
    boot(daemon, machine, "power_on")
    assert machine.state_and_reason() == "running (restored)"
    boot(daemon, machine, "force_reset")
    machine.wait_for_boots("disk", "disk")


BODIES: list[dict[str, object]] = [
    {},
    {"once": True},
    {"device": "hd"},
    {"device": "PXE"},
    {"device": None},
    {"device": ["pxe"]},
    {"device": "pxe", "once": "False?"},
    {"device": "pxe", "once": 1},
    {"device": "pxe", "grace": 1},
    {"device": "pxe", "discard_saved": "maybe"},
]
QUERIES = [
    "?once=yes",
    "?once=",
    "?grace=-1",
    "?grace=1e3",
    "?grace=601",
    "?device=pxe",
    "?discard_saved=2",
]


def test_bad_parameters_change_nothing(define: Define, daemon: Daemon, backups: Path) -> None:
    machine = define()
    first = machine.xml()
    with commands(daemon) as given:
        for body in BODIES:
            answer = put_boot(daemon, machine, **body)
            assert answer.status == BAD_REQUEST, (body, answer)
        for query in QUERIES:
            answer = daemon.act(machine.name, "pxeboot", query)
            assert answer.status == BAD_REQUEST, (query, answer)
    assert given == []
    assert (machine.xml(), machine.state()) == (first, "shut off")
    assert not backups_of(backups, machine)
