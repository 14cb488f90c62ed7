"""The boot URLs and verbs over HTTP, on the embedded test hypervisor."""

import json
import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest

from mc.actions.boot import BOOT_VERBS
from mc.boot.backup import file_stem
from mc.domain_xml import order
from tests.daemon import READS, Answer, Daemon
from tests.hypervisor import STATES, uuid_of
from tests.lab import Virsh

OK, NO_CONTENT, BAD_REQUEST, NOT_FOUND, NOT_ALLOWED, CONFLICT = 200, 204, 400, 404, 405, 409
INSUFFICIENT_STORAGE = 507
DEMO = Path(__file__).parent.parent / "config/demo.xml"
HIDDEN_WORD = "geheim"

MAC = "52:54:00:aa:00:01"
DISK, NETWORK, CDROM = "disk:vda", f"network:{MAC}", "cdrom:sda"
FOUND = [CDROM, DISK, NETWORK]
"""The order of the machines in these tests, as they are found."""
UNSET: dict[str, Any] = {
    "order": FOUND,
    "pending": False,
    "device": None,
    "once": None,
    "running_once": None,
    "ended_once": None,
    "default": FOUND,
}
"""What boots one of which nothing has been asked."""

# What each device makes of that order.
ORDERS = {
    "pxe": [NETWORK, CDROM, DISK],
    "disk": [DISK, CDROM, NETWORK],
    "cdrom": FOUND,
    "default": FOUND,
}
VERBS = {"pxeboot": "pxe", "diskboot": "disk", "defaultboot": "default"}
# How a machine in each state is brought to where it can be started. `in shutdown` never ends.
TO_OFF: dict[str, list[str]] = {
    "running": ["shutdown"],
    "idle": ["shutdown"],
    "paused": ["destroy"],
    "in shutdown": ["destroy"],
    "shut off": [],
    "crashed": ["destroy"],
    "pmsuspended": ["destroy"],
}

DISK_XML = "<disk type='file' device='disk'><source file='/x'/><target dev='vda'/>{}</disk>"
CDROM_XML = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/>{}</disk>"
NIC_XML = f"<interface type='user'><mac address='{MAC}'/>{{}}</interface>"
OS_BOOTS = "<boot dev='cdrom'/><boot dev='hd'/><boot dev='network'/>"


def domain(name: str, state: str, *, os: str = "", devices: str) -> str:
    """A machine without its UUID, which `hypervisor` gives it."""
    return (
        f"<domain type='test'><name>{escape(name, {chr(13): '&#13;'})}</name><uuid>UUID</uuid>"
        f"<memory unit='MiB'>8</memory><os><type>hvm</type>{os}</os><devices>{devices}</devices>"
        "<runstate xmlns='http://libvirt.org/schemas/domain/test/1.0'>"
        f"{STATES[state]}</runstate></domain>"
    )


def machine(name: str, state: str = "running", kind: str = "device", more: str = "") -> str:
    """A machine with a CD-ROM, a disk and an interface, to be tried in this turn."""
    boots = [f"<boot order='{place}'/>" for place in (2, 3, 1)] if kind == "device" else [""] * 3
    devices = DISK_XML.format(boots[0]) + NIC_XML.format(boots[1]) + CDROM_XML.format(boots[2])
    return domain(name, state, os=OS_BOOTS * (kind == "os"), devices=devices + more)


def hypervisor(file: Path, domains: list[str]) -> str:
    """The URI of a hypervisor with these machines, whose UUIDs are `uuid_of` their places."""
    numbered = [xml.replace("UUID", uuid_of(number), 1) for number, xml in enumerate(domains)]
    file.write_text(f"<node>{''.join(numbered)}</node>", "utf-8")
    return f"test://{file}"


def dump(uri: str, uuid: str) -> str:
    """The XML with its secrets that a machine has at first: every connection begins anew."""
    return Virsh(uri, os.environ)("dumpxml", "--inactive", "--security-info", uuid)


SETTINGS = [
    (kind, device, once, state)
    for kind in ("device", "os")
    for device in ORDERS
    for once in (False, True)
    for state in ("running", "shut off")
]
CELLS = [(verb, state, once) for verb in VERBS for state in TO_OFF for once in (False, True)]
# Machines that cannot boot as asked: what they are asked for, and what is said.
REFUSING = {
    "no-nic": ("pxe", "no interface", "", DISK_XML.format("<boot order='1'/>")),
    "no-nic-os": ("pxe", "no interface", "<boot dev='hd'/>", DISK_XML.format("")),
    "no-disk": ("disk", "no disk", "", NIC_XML.format("<boot order='1'/>")),
    "no-cdrom": ("cdrom", "no cdrom", "<boot dev='hd'/>", DISK_XML.format("")),
    "rom-off": ("pxe", "ROM", "<boot dev='hd'/>", NIC_XML.format("<rom enabled='no'/>")),
    "kernel": ("pxe", "kernel", "<kernel>/vmlinuz</kernel>", NIC_XML.format("")),
    "nothing": ("disk", "no disk", "", ""),
}
HOSTILE = [
    "O'Brien's \"lab\"; reboot --help #1 & <früh> $HOME 测试",
    "--help",
    "-rf",
    "5",
    "GET",
    "__class__",
    "boot",
    "state_controller",
    "  blanks ",
    "tab\there",
    "%2F..%2F",
    "%d%s",
    "...",
    ".hidden",
    "a\\b",
    "back`tick`$(x)",
    "vm.xml.20260101T000000.000000Z.backup",
    "ü" * 60,
]
# libvirt runs a machine of this name, but takes its own XML of it for that of another name.
INVALID = "cr\rhere"
# libvirt has machines with such an interface, which its schema (`virsh define --validate`) refuses.
BEYOND = "beyond"
BEYOND_XML = "<interface type='user'><target dev='a b'/></interface>"


def name_of(*parts: object) -> str:
    return "-".join(str(part).replace(" ", "_") for part in parts)


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "backups"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, backups: Path) -> Iterator[Daemon]:
    """A machine for each cell of the tables, and some more."""
    domains = [machine(name_of(*cell), cell[3], cell[0]) for cell in SETTINGS]
    for method in ("GET", "POST"):
        domains += [machine(name_of(method, *cell), cell[1]) for cell in CELLS]
    domains += [
        domain(name, "running", os=os, devices=devices)
        for name, (_, _, os, devices) in REFUSING.items()
    ]
    domains += [machine(name) for name in HOSTILE]
    domains += [machine(f"spare-{number}") for number in range(5)]
    domains += [machine(f"off-{number}", "shut off") for number in range(4)]
    domains += [machine("vm"), machine(INVALID), machine(BEYOND, more=BEYOND_XML)]
    file = tmp_path_factory.mktemp("boot-service") / "machines.xml"
    uri = hypervisor(file, domains)
    with Daemon("--connect", uri, "--backup-dir", str(backups)) as daemon:
        yield daemon


def boot_url(name: str) -> str:
    return f"/service/{quote(name, safe='')}/boot"


def boot(daemon: Daemon, name: str) -> Any:
    answer = daemon.get(boot_url(name))
    assert answer.status == OK, answer
    return answer.json


def put(daemon: Daemon, name: str, body: bytes | None = None, **members: object) -> Answer:
    """PUT boot with a body, or with these members as JSON."""
    content = json.dumps(members).encode() if members else body
    return daemon.request("PUT", boot_url(name), content)


def kept(backups: Path, name: str) -> int:
    """How many backups of this machine there are."""
    return sum(path.name.startswith(file_stem(name)) for path in backups.glob("*"))


def steps(daemon: Daemon, before: int) -> list[str]:
    """The virsh commands that acted, beginning with the `before`th of all."""
    commands = [command.split(" ", 1)[0] for command in daemon.virsh_commands()[before:]]
    return [command for command in commands if command not in READS]


def problem(answer: Answer, status: int) -> Any:
    """The members of a problem document, after a look at its form (RFC 9457)."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    members = answer.json
    assert (members["status"], members["title"]) == (status, HTTPStatus(status).phrase)
    assert members["detail"]
    return members


def last_action(daemon: Daemon) -> str:
    """The newest line in the log about an action."""
    lines = [line for line in daemon.log().splitlines() if " mc.action: " in line]
    return lines[-1].partition(" mc.action: ")[2]


def test_every_device_and_boot_verb_stands_in_the_tables() -> None:
    assert list(ORDERS) == list(order.DEVICES)
    assert VERBS == BOOT_VERBS
    assert list(TO_OFF) == list(STATES)


@pytest.mark.parametrize(("kind", "device", "once", "state"), SETTINGS)
def test_put_sets_what_get_tells(
    daemon: Daemon, backups: Path, kind: str, device: str, once: bool, state: str
) -> None:
    name = name_of(kind, device, once, state)
    assert boot(daemon, name) == UNSET
    after = ORDERS[device]
    if once:
        expected = UNSET | {"once": device}
    else:
        expected = UNSET | {"order": after, "pending": state == "running" and after != FOUND}
        expected["device"] = None if device == "default" else device
    # That an order was right already is remembered, and changes nothing.
    writes = expected != UNSET
    changes = once or after != FOUND
    before = len(daemon.virsh_commands())
    answer = put(daemon, name, device=device, once=once)
    assert answer.status == OK, answer
    assert answer.headers["content-type"] == "application/json"
    uuid = uuid_of(SETTINGS.index((kind, device, once, state)))
    identity = {"host": "local", "machine": name, "uuid": uuid}
    assert answer.json == identity | {"changed": changes} | expected
    assert boot(daemon, name) == expected
    assert steps(daemon, before) == ["define"] * writes
    assert kept(backups, name) == changes
    assert daemon.status(name)["state"] == state
    again = put(daemon, name, device=device, once=once)
    assert again.json == identity | {"changed": False} | expected
    assert steps(daemon, before) == ["define"] * writes
    assert kept(backups, name) == changes
    undone = put(daemon, name, device="default")
    assert undone.json == identity | {"changed": changes} | UNSET
    assert steps(daemon, before) == ["define"] * 2 * writes
    # A mark is taken back without a backup: there is one of what was before it.
    assert kept(backups, name) == changes + (changes and not once)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("verb", "state", "once"), CELLS)
def test_boot_verb_in_state(
    daemon: Daemon, backups: Path, verb: str, state: str, once: bool, method: str
) -> None:
    name = name_of(method, verb, state, once)
    before = len(daemon.virsh_commands())
    if method == "GET":
        answer = daemon.act(name, verb, f"?grace=0.2&once={once}")
    else:
        body = json.dumps({"grace": 0.2, "once": once}).encode()
        answer = daemon.post(f"/service/{name}/state_controller/{verb}", body)
    place = len(SETTINGS) + CELLS.index((verb, state, once)) + len(CELLS) * (method == "POST")
    assert answer.status == OK, answer
    assert answer.json == {
        "host": "local",
        "machine": name,
        "uuid": uuid_of(place),
        "action": verb,
        "changed": True,
        "state": "running",
        "power": "on",
        "reason": "booted",
    }
    device = VERBS[verb]
    differs = ORDERS[device] != FOUND
    # Whatever can fail is done before the power is cut.
    off = (
        TO_OFF[state] + ["define"] if TO_OFF[state] == ["shutdown"] else ["define", *TO_OFF[state]]
    )
    start = [*off, "create"] if once else [*TO_OFF[state], "start"]
    assert steps(daemon, before) == ["define"] * (once or differs) + start
    if once:
        told = {"pending": differs, "running_once": device}
    else:
        told = {"order": ORDERS[device], "device": None if device == "default" else device}
    assert boot(daemon, name) == UNSET | told
    assert kept(backups, name) == (once or differs)


def test_order_that_is_right_already_is_not_written_again(daemon: Daemon, backups: Path) -> None:
    put(daemon, "off-0", device="pxe")
    files = sorted(backups.iterdir())
    before = len(daemon.virsh_commands())
    assert daemon.act("off-0", "pxeboot").json["state"] == "running"
    assert steps(daemon, before) == ["start"]
    assert daemon.act("off-0", "pxeboot", "?grace=0").json["changed"]
    assert steps(daemon, before) == ["start", "destroy", "start"]
    assert sorted(backups.iterdir()) == files


def test_mark_for_one_boot_is_used_by_whoever_starts_the_machine(
    daemon: Daemon, backups: Path
) -> None:
    put(daemon, "off-1", device="pxe", once=True)
    before = len(daemon.virsh_commands())
    assert daemon.act("off-1", "power_on").json["state"] == "running"
    assert steps(daemon, before) == ["define", "create"]
    assert boot(daemon, "off-1") == UNSET | {"pending": True, "running_once": "pxe"}
    assert daemon.act("off-1", "power_cycle").json["state"] == "running"
    assert steps(daemon, before) == ["define", "create", "destroy", "start"]
    assert boot(daemon, "off-1") == UNSET
    assert kept(backups, "off-1") == 1


def test_end_that_nobody_can_tell_is_not_told(daemon: Daemon) -> None:
    """The embedded hypervisor tells nobody how a run has ended."""
    put(daemon, "off-3", device="default")
    daemon.act("off-3", "force_off")
    put(daemon, "off-3", device="pxe", once=True)
    assert daemon.act("off-3", "power_on").json["state"] == "running"
    assert boot(daemon, "off-3") == UNSET | {"pending": True, "running_once": "pxe"}
    assert daemon.act("off-3", "power_off").json["state"] == "shut off"
    assert boot(daemon, "off-3") == UNSET


def test_order_that_is_right_already_is_remembered_as_asked_for(
    daemon: Daemon, backups: Path
) -> None:
    """Without a backup: nothing changes that is the administrator's."""
    before = len(daemon.virsh_commands())
    answer = put(daemon, "spare-4", device="cdrom").json
    assert (answer["changed"], answer["device"], answer["order"]) == (False, "cdrom", FOUND)
    assert steps(daemon, before) == ["define"]
    assert last_action(daemon).split(" outcome=")[1].startswith('"unchanged, cdrom"')
    verb = daemon.act("spare-4", "defaultboot", "?grace=0").json
    assert (verb["changed"], verb["state"]) == (True, "running")
    assert steps(daemon, before) == ["define", "define", "destroy", "start"]
    assert boot(daemon, "spare-4") == UNSET
    assert kept(backups, "spare-4") == 0


def test_setting_an_order_takes_the_mark_away(daemon: Daemon) -> None:
    for device in ("default", "cdrom"):
        assert put(daemon, "off-2", device="pxe", once=True).json["once"] == "pxe"
        answer = put(daemon, "off-2", device=device)
        assert (answer.json["changed"], answer.json["once"]) == (True, None)
    assert put(daemon, "off-2", device="pxe", once=True).json["once"] == "pxe"
    assert put(daemon, "off-2", device="disk", once="1").json["once"] == "disk"


@pytest.mark.parametrize("once", [True, False])
def test_mark_can_be_taken_back(daemon: Daemon, once: bool) -> None:
    put(daemon, "off-2", device="cdrom")
    xml = daemon.get(boot_url("off-2")).json
    assert put(daemon, "off-2", device="pxe", once=True).json["once"] == "pxe"
    before = len(daemon.virsh_commands())
    answer = put(daemon, "off-2", device="none", once=once)
    assert (answer.json["changed"], answer.json["once"]) == (True, None)
    assert daemon.get(boot_url("off-2")).json == xml
    assert put(daemon, "off-2", device="none", once=once).json["changed"] is False
    assert steps(daemon, before) == ["define"]


@pytest.mark.parametrize("verb", ["force_reset", "force_reboot", "power_cycle"])
def test_reset_of_a_machine_with_a_pending_order_is_off_and_on(daemon: Daemon, verb: str) -> None:
    put(daemon, "spare-0", device="default")
    daemon.act("spare-0", "power_cycle")
    assert put(daemon, "spare-0", device="pxe").json["pending"] is True
    before = len(daemon.virsh_commands())
    assert daemon.act("spare-0", verb).json["state"] == "running"
    assert steps(daemon, before) == ["destroy", "start"]
    assert boot(daemon, "spare-0")["pending"] is False


def test_reset_of_a_machine_whose_order_was_never_set_is_a_reset(daemon: Daemon) -> None:
    before = len(daemon.virsh_commands())
    assert daemon.act("spare-1", "force_reset").json["changed"]
    assert steps(daemon, before) == ["reset"]


def test_parameters_of_put_may_stand_in_the_query(daemon: Daemon) -> None:
    answer = daemon.request("PUT", boot_url("spare-2") + "?device=pxe&once=TRUE")
    assert (answer.status, answer.json["once"]) == (OK, "pxe")
    answer = daemon.request("PUT", boot_url("spare-2") + "?device=disk", b'{"once": "0"}')
    assert (answer.json["once"], answer.json["order"]) == (None, ORDERS["disk"])


def test_boot_order_of_a_machine_by_its_uuid(daemon: Daemon) -> None:
    uuid = daemon.get("/service/spare-3").json["uuid"]
    assert put(daemon, uuid.upper(), device="pxe").json["machine"] == "spare-3"
    assert boot(daemon, uuid) == boot(daemon, "spare-3")
    assert boot(daemon, uuid)["order"] == ORDERS["pxe"]


# What is refused.


def untouched(daemon: Daemon, before: int, name: str = "vm") -> None:
    """No command has acted, and the machine runs in the order that it was found with."""
    assert steps(daemon, before) == []
    assert (daemon.status(name)["state"], boot(daemon, name)) == ("running", UNSET)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "query",
    ["grace=abc", "grace=-1", "grace=", "grace=nan", "grace=inf", "grace=601", "grace=1e3",
     "grace=1&grace=2", "once=False!", "once=", "once=2", "once=yes", "discard_saved=maybe",
     "device=pxe", "wait=1", "force=true", "Once=true", "nonsense=1", "once=true%00"],
)  # fmt: skip
def test_bad_parameter_of_a_verb(daemon: Daemon, verb: str, query: str) -> None:
    before = len(daemon.virsh_commands())
    members = problem(daemon.act("vm", verb, f"?{query}"), BAD_REQUEST)
    assert query.partition("=")[0] in members["detail"]
    untouched(daemon, before)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "body", [b"once=true", b"{", b"[]", b"null", b"\xff", b'{"grace": "abc"}', b'{"grace": -1}',
             b'{"grace": true}', b'{"grace": null}', b'{"once": "False!"}', b'{"once": 1}',
             b'{"once": []}', b'{"x": 1}', b'{"device": "pxe"}'],
)  # fmt: skip
def test_bad_body_of_a_verb(daemon: Daemon, verb: str, body: bytes) -> None:
    before = len(daemon.virsh_commands())
    problem(daemon.post(f"/service/vm/state_controller/{verb}", body), BAD_REQUEST)
    untouched(daemon, before)


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (None, "device"),
        (b"", "device"),
        (b"  ", "device"),
        (b"{}", "device"),
        (b'{"once": true}', "device"),
        *[(b'{"device": %s}' % value, "device") for value in
          (b'"net"', b'"PXE"', b'""', b'" pxe"', b'"disk:vda"', b"1", b"null", b"true", b"[]",
           b'["pxe"]', b"{}")],
        *[(b'{"device": "pxe", "once": %s}' % value, "once") for value in
          (b'"False!"', b'""', b"1", b"0", b"null", b"[]", b"1.5")],
        (b'{"device": "pxe", "discard_saved": "maybe"}', "discard_saved"),
        (b'{"device": "pxe", "grace": 1}', "grace"),
        (b'{"device": "pxe", "Once": true}', "Once"),
        (b"device=pxe", "JSON"),
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"[" * 50_000, "JSON"),
        (b"[]", "object"),
        (b'"pxe"', "object"),
        (b"null", "object"),
    ],
)  # fmt: skip
def test_bad_put(daemon: Daemon, body: bytes | None, parameter: str) -> None:
    before = len(daemon.virsh_commands())
    members = problem(put(daemon, "vm", body), BAD_REQUEST)
    assert parameter in members["detail"]
    untouched(daemon, before)


def test_bad_query_of_the_boot_url(daemon: Daemon) -> None:
    before = len(daemon.virsh_commands())
    url = boot_url("vm")
    problem(daemon.request("PUT", url + "?device=pxe", b'{"device": "disk"}'), BAD_REQUEST)
    problem(daemon.request("PUT", url + "?device=pxe&device=disk", None), BAD_REQUEST)
    problem(daemon.request("PUT", url + "?device=tape", None), BAD_REQUEST)
    problem(daemon.get(url + "?device=pxe"), BAD_REQUEST)
    untouched(daemon, before)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "BREW"])
def test_no_other_method_is_for_the_boot_url(daemon: Daemon, method: str) -> None:
    before = len(daemon.virsh_commands())
    answer = daemon.request(method, boot_url("vm"), b'{"device": "pxe"}')
    problem(answer, NOT_ALLOWED)
    assert answer.headers["allow"] == "GET, HEAD, PUT, OPTIONS"
    untouched(daemon, before)


def test_head_and_options_of_the_boot_url(daemon: Daemon) -> None:
    before = len(daemon.virsh_commands())
    options = daemon.request("OPTIONS", boot_url("vm"))
    allow = options.headers["allow"]
    assert (options.status, allow) == (NO_CONTENT, "GET, HEAD, PUT, OPTIONS")
    head, get = daemon.request("HEAD", boot_url("vm")), daemon.get(boot_url("vm"))
    assert (head.status, head.body) == (OK, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    untouched(daemon, before)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW"])
def test_only_get_and_post_boot(daemon: Daemon, verb: str, method: str) -> None:
    before = len(daemon.virsh_commands())
    answer = daemon.request(method, f"/service/vm/state_controller/{verb}?grace=0")
    assert answer.status == (NO_CONTENT if method == "OPTIONS" else NOT_ALLOWED)
    assert answer.headers["allow"] == "GET, POST, OPTIONS"
    untouched(daemon, before)


@pytest.mark.parametrize("name", REFUSING)
@pytest.mark.parametrize("once", [False, True])
def test_machine_that_cannot_boot_from_that_is_left_alone(
    daemon: Daemon, backups: Path, name: str, once: bool
) -> None:
    device, words, _, _ = REFUSING[name]
    found = boot(daemon, name)
    before = len(daemon.virsh_commands())
    answers = [put(daemon, name, device=device, once=once)]
    answers += [
        daemon.act(name, verb, f"?once={once}") for verb, own in VERBS.items() if own == device
    ]
    for answer in answers:
        members = problem(answer, CONFLICT)
        assert words in members["detail"]
        assert members["uuid"] == daemon.get(f"/service/{name}").json["uuid"]
        assert "done" not in members
    assert not any(command.startswith("define") for command in daemon.virsh_commands()[before:])
    assert steps(daemon, before) == []
    assert boot(daemon, name) == found
    assert daemon.status(name)["state"] == "running"
    assert not list(backups.glob(f"{name}.xml.*"))


@pytest.mark.parametrize(
    "name",
    ["nope", "../vm", "../../etc/passwd", "vm/x", "vm;destroy", "'", "a\nb", "\0", "--domain", "-1",
     " ", "..", ".", "x" * 8_000],
)  # fmt: skip
def test_unknown_machine_is_not_found(daemon: Daemon, backups: Path, name: str) -> None:
    files = sorted(backups.parent.rglob("*"))
    before = len(daemon.virsh_commands())
    problem(daemon.get(boot_url(name)), NOT_FOUND)
    problem(put(daemon, name, device="pxe"), NOT_FOUND)
    for verb in VERBS:
        problem(daemon.act(name, verb), NOT_FOUND)
    assert steps(daemon, before) == []
    assert sorted(backups.parent.rglob("*")) == files


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_is_only_a_name(daemon: Daemon, backups: Path, name: str) -> None:
    uuid = daemon.get(f"/service/{quote(name, safe='')}").json["uuid"]
    answer = put(daemon, name, device="pxe")
    assert answer.status == OK, answer
    assert (answer.json["machine"], answer.json["uuid"]) == (name, uuid)
    assert boot(daemon, name)["order"] == ORDERS["pxe"]
    booted = daemon.act(name, "diskboot", "?grace=0&once=true")
    assert (booted.status, booted.json["machine"], booted.json["uuid"]) == (OK, name, uuid)
    own = [path for path in backups.iterdir() if path.name.startswith(file_stem(name))]
    # One for the order, one for the mark: what begins then needs none.
    assert len(own) == 2
    assert all(uuid in path.read_text("utf-8") for path in own)
    assert list(backups.parent.iterdir()) == [backups]


def test_libvirts_own_refusal_is_told_in_its_words(daemon: Daemon) -> None:
    before = len(daemon.virsh_commands())
    members = problem(put(daemon, INVALID, device="pxe"), CONFLICT)
    assert "invalid char in name" in members["detail"]
    assert "/dev/fd" not in members["detail"]
    problem(daemon.act(INVALID, "pxeboot"), CONFLICT)
    assert steps(daemon, before) == ["define", "define"]
    untouched(daemon, len(daemon.virsh_commands()), INVALID)


def test_machine_beyond_libvirts_schema_is_one_like_any(daemon: Daemon, backups: Path) -> None:
    """What libvirt itself keeps it takes back from us."""
    before = len(daemon.virsh_commands())
    answer = put(daemon, BEYOND, device="pxe")
    assert answer.status == OK, answer
    pending = {"order": ORDERS["pxe"], "pending": True, "device": "pxe"}
    assert boot(daemon, BEYOND) == UNSET | pending
    assert daemon.act(BEYOND, "diskboot", "?grace=0&once=true").json["state"] == "running"
    assert steps(daemon, before) == ["define", "define", "define", "destroy", "create"]
    assert boot(daemon, BEYOND) == UNSET | pending | {"running_once": "disk"}
    assert kept(backups, BEYOND) == 2


# What is kept, and what is told.


def lone(tmp_path: Path, *domains: str) -> str:
    return hypervisor(tmp_path / "machines.xml", list(domains))


def configured(tmp_path: Path, *lines: str) -> str:
    settings = tmp_path / "settings.conf"
    settings.write_text("\n".join(["[global]", *lines]))
    return str(settings)


def test_one_backup_for_each_change_with_the_xml_before_it(tmp_path: Path) -> None:
    """But for what is the controller's own: marks are in none, and need none to be used."""
    folder = tmp_path / "state" / "backups"
    graphics = f"<graphics type='vnc' passwd='{HIDDEN_WORD}'/>"
    uri = lone(tmp_path, machine("vm", "shut off", more=graphics))
    found = dump(uri, uuid_of(0)).rstrip("\n")
    assert HIDDEN_WORD in found
    with Daemon("--connect", uri, "--backup-dir", str(folder)) as daemon:
        boot(daemon, "vm")
        put(daemon, "vm", device="default")
        daemon.act("vm", "defaultboot")
        assert not folder.exists()
        expected = [found]
        for device in ("pxe", "disk", "default", "pxe"):
            put(daemon, "vm", device=device)
            expected.append(order.with_order(expected[-1], device))
        defines = steps(daemon, 0).count("define")
        assert defines == len(list(folder.iterdir())) == len(expected) - 1
        # The last order is seen in no backup yet: the one of it is taken when a mark is set.
        for device, once, backups in (
            ("disk", True, 1),
            ("cdrom", True, 1),
            ("cdrom", True, 0),
            ("none", True, 0),
            ("disk", True, 1),
            ("pxe", False, 0),
            ("disk", True, 1),
        ):
            files = len(list(folder.iterdir()))
            put(daemon, "vm", device=device, once=once)
            assert len(list(folder.iterdir())) == files + backups
        daemon.act("vm", "power_cycle")
        assert boot(daemon, "vm")["running_once"] == "disk"
        assert len(list(folder.iterdir())) == files + 1
        put(daemon, "vm", device="disk")
        files_now = sorted(folder.iterdir())
        # Three marks after the first, and an order while a one-time boot runs.
        expected += [expected[-1]] * 4
        assert [path.read_text("utf-8").rstrip("\n") for path in files_now] == expected
        assert not [word for word in ("once=", "begun=") if word in "".join(expected)]
        assert steps(daemon, 0).count("define") == defines + 8
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files_now} == {0o600}
    assert all(path.name.startswith("vm.xml.") and path.suffix == ".backup" for path in files_now)


def test_secrets_and_xml_are_kept_and_never_told(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    graphics = f"<graphics type='vnc' passwd='{HIDDEN_WORD}'/>"
    uri = lone(tmp_path, machine("vm", more=graphics))
    bodies = []
    with Daemon("--connect", uri, "--backup-dir", str(folder)) as daemon:
        for number in range(10):
            verb = list(VERBS)[number % len(VERBS)]
            answers = [
                daemon.act("vm", verb, f"?grace=0&once={number % 2 == 1}"),
                put(daemon, "vm", device=["pxe", "disk", "cdrom"][number % 3]),
                daemon.get(boot_url("vm")),
            ]
            assert {answer.status for answer in answers} == {OK}
            bodies += [answer.body.decode() for answer in answers]
        log = daemon.log()
    for text in (log, *bodies):
        assert not [word for word in (HIDDEN_WORD, "passwd", "<domain", "<boot") if word in text]
    files = sorted(folder.iterdir())
    assert len(files) > 10
    assert all(HIDDEN_WORD in path.read_text("utf-8") for path in files)


def test_backups_that_stay_are_the_first_and_so_many(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    settings = configured(tmp_path, f"boot.backup_dir = {str(folder)!r}", "boot.backups_kept = 2")
    uri = lone(tmp_path, machine("vm"), machine("other"))
    with Daemon("--connect", uri, "--config", settings) as daemon:
        seen = []
        for device in ("pxe", "disk") * 4:
            assert put(daemon, "vm", device=device).json["changed"]
            seen.append(max(folder.glob("vm.xml.*")))
        put(daemon, "other", device="pxe")
    others = list(folder.glob("other.xml.*"))
    assert len(others) == 1
    assert sorted(folder.iterdir()) == sorted([seen[0], *seen[-2:], *others])


def test_backup_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    uri = lone(tmp_path, machine("vm"))
    folder = str(blocked / "backups")
    with Daemon("--connect", uri, "--backup-dir", folder) as daemon:
        answers = [put(daemon, "vm", device="pxe"), put(daemon, "vm", device="disk", once=True)]
        answers += [daemon.act("vm", verb, "?once=true") for verb in VERBS]
        answers += [daemon.act("vm", verb) for verb in ("pxeboot", "diskboot")]
        for answer in answers:
            members = problem(answer, INSUFFICIENT_STORAGE)
            assert folder in members["detail"] and "nothing was changed" in members["detail"]
            assert members["uuid"] == uuid_of(0)
            assert "done" not in members
        untouched(daemon, 0)
        assert 'outcome="BackupFailed: ' in last_action(daemon)
        # What needs no define needs no backup.
        assert put(daemon, "vm", device="cdrom").status == OK
        assert daemon.act("vm", "defaultboot").json["state"] == "running"
    assert blocked.read_text() == "in the way"


def test_mark_alone_needs_a_backup_and_neither_its_boot_nor_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    uri = lone(tmp_path, machine("vm", "shut off"))
    with Daemon("--connect", uri, "--backup-dir", str(folder)) as daemon:
        put(daemon, "vm", device="pxe", once=True)
        folder.rename(tmp_path / "away")
        folder.write_text("in the way")
        for device in ("disk", "default"):
            problem(put(daemon, "vm", device=device, once=True), INSUFFICIENT_STORAGE)
            problem(daemon.act("vm", "diskboot", "?once=true"), INSUFFICIENT_STORAGE)
            assert daemon.status("vm")["state"] == "shut off"
            assert boot(daemon, "vm") == UNSET | {"once": "pxe"}
        for _ in range(2):
            assert daemon.act("vm", "power_on").json["state"] == "running"
            assert daemon.act("vm", "force_off").json["state"] == "shut off"
        assert boot(daemon, "vm") == UNSET
        folder.unlink()
        put(daemon, "vm", device="pxe", once=True)
        folder.rename(tmp_path / "away again")
        folder.write_text("in the way")
        assert put(daemon, "vm", device="none").json["changed"] is True
        assert boot(daemon, "vm") == UNSET
    assert folder.read_text() == "in the way"


def test_every_boot_action_is_logged_in_one_line(tmp_path: Path) -> None:
    uri = lone(tmp_path, machine("a vm"))
    with Daemon("--connect", uri, "--backup-dir", str(tmp_path / "backups")) as daemon:
        who = f'client=127.0.0.1 user=- machine="a vm" uuid={uuid_of(0)} outcome='
        put(daemon, "a vm", device="pxe")
        assert last_action(daemon).startswith(f'boot {who}"changed, pxe" ms=')
        put(daemon, "a vm", device="pxe")
        assert last_action(daemon).startswith(f'boot {who}"unchanged, pxe" ms=')
        for verb in VERBS:
            daemon.act("a vm", verb, "?grace=0")
            assert last_action(daemon).startswith(f'{verb} {who}"changed, running" ms=')
        put(daemon, "nope", device="pxe")
        assert 'boot client=127.0.0.1 user=- machine="nope" uuid=- ' in last_action(daemon)
        assert 'outcome="NoSuchMachine: ' in last_action(daemon)
        lines = [line for line in daemon.log().splitlines() if " mc.action: " in line]
        assert len(lines) == 3 + len(VERBS)
        boot(daemon, "a vm")
        daemon.request("HEAD", boot_url("a vm"))
        assert last_action(daemon) == lines[-1].partition(" mc.action: ")[2]


def test_log_line_cannot_be_forged_by_a_name(daemon: Daemon) -> None:
    forged = "x\r\n2026-01-01 INFO mc.action: forged"
    put(daemon, forged, device="pxe")
    daemon.act(forged, "pxeboot")
    assert not any(line.startswith("2026-01-01") for line in daemon.log().splitlines())


def test_state_words_can_be_on_and_off(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    settings = configured(
        tmp_path, "service.state_words = 'power'", f"boot.backup_dir = {str(folder)!r}"
    )
    uri = lone(tmp_path, machine("up"), machine("down", "shut off"))
    with Daemon("--connect", uri, "--config", settings) as daemon:
        for name in ("up", "down"):
            for verb in VERBS:
                answer = daemon.act(name, verb, "?grace=0").json
                assert (answer["state"], answer["power"], answer["reason"]) == (
                    *("on", "on"),
                    "booted",
                )
        assert "state" not in boot(daemon, "up")


def test_grace_is_the_one_of_the_settings_unless_given(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    settings = configured(tmp_path, "boot.grace_seconds = 0", f"boot.backup_dir = {str(folder)!r}")
    with Daemon("--connect", lone(tmp_path, machine("vm")), "--config", settings) as daemon:
        daemon.act("vm", "pxeboot")
        assert steps(daemon, 0) == ["define", "destroy", "start"]
        daemon.act("vm", "pxeboot", "?grace=5")
        assert steps(daemon, 0)[3:] == ["shutdown", "start"]


# The machines that a newcomer meets first.


def test_demo_machines_tell_what_they_boot() -> None:
    expected = {
        "web-1": ["disk:vda"],
        "db-1": ["disk:vda", "network:52:54:00:00:02:01"],
        "ci-runner-1": ["network:52:54:00:00:03:01", "disk:vda"],
        "ci-runner-2": ["network:52:54:00:00:04:01", "disk:vda", "cdrom:sda"],
        "staging": ["disk:vda", "network:52:54:00:00:05:01"],
        "legacy-erp": ["disk:hda"],
        "desktop": ["disk:sda"],
        "O'Brien's \"lab\"; reboot --help #1 & <früh> $HOME 测试": ["disk:vda"],
    }
    with Daemon("--connect", f"test://{DEMO}") as daemon:
        names = {one["name"] for one in daemon.get("/service/machines").json}
        assert names == set(expected)
        for name, labels in expected.items():
            assert boot(daemon, name) == UNSET | {"order": labels, "default": labels}
