"""The log of actions: who did or tried what on which machine, how, and what came of it."""

import json
import logging
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import pytest

from mc.errors import NoAnswer, NoSuchMachine
from mc.machine.machines import Machine
from mc.monitoring.metrics import Metrics
from mc.users import add_user
from mc.web.problems import Problem
from mc.web.routing.journal import Refusals, journal
from tests.daemon import Answer, Daemon
from tests.digest import authorization, nonce_of
from tests.hypervisor import DEVICES, hypervisor, uuid_of
from tests.lab import until

README = Path(__file__).parent.parent / "README.md"
ODD = 'a "b" = c\\d\x1b[31m ü\u202e ms=1'
MACHINES = [("vm", "running"), ("off", "shut off"), (ODD.replace("\x1b", ""), "running")]
NAME = MACHINES[2][0]
ODD_USER = 'x" outcome="changed'
USERS = {"admin": "secret", "monitor": "secret", ODD_USER: "secret"}
OK, BAD_REQUEST, UNAUTHORIZED, FORBIDDEN = 200, 400, 401, 403
_PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[\w.,:@+-]+)(?: |$)', re.ASCII)
ALWAYS = ["client", "user", "machine", "uuid", "outcome", "ms"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Open to everybody on this host; whose guests get 25 seconds."""
    folder = tmp_path_factory.mktemp("journal")
    (folder / "mc.conf").write_text("[global]\nboot.grace_seconds = 25.0\n")
    uri = hypervisor(folder / "machines.xml", MACHINES, DEVICES)
    arguments = ("--config", str(folder / "mc.conf"), "--backup-dir", str(folder / "backups"))
    with Daemon("--connect", uri, *arguments) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that only users may use, of whom one may only read."""
    folder = tmp_path_factory.mktemp("guarded")
    for user, password in USERS.items():
        add_user(folder / "users", user, password)
    (folder / "mc.conf").write_text('[global]\nauth.readers = ["monitor"]\n')
    uri = hypervisor(folder / "machines.xml", MACHINES, DEVICES)
    arguments = ("--config", str(folder / "mc.conf"), "--users", str(folder / "users"))
    with Daemon("--connect", uri, *arguments) as daemon:
        yield daemon


def parsed(line: str) -> dict[str, str]:
    """What a line of the log says, its first word as `verb`; each key stands once."""
    verb, _, rest = line.partition(" ")
    pairs = _PAIR.findall(rest)
    assert "".join(f"{key}={value} " for key, value in pairs).rstrip() == rest, line
    assert [key for key, _ in pairs][:6] == ALWAYS, line
    assert len({key for key, _ in pairs}) == len(pairs), line
    texts = {key: json.loads(value) if value[0] == '"' else value for key, value in pairs}
    return {"verb": verb} | texts


def lines(daemon: Daemon, start: int) -> list[dict[str, str]]:
    """What has been logged about actions since then, on lines that are printable."""
    log = daemon.log(start).split("\n")
    assert all(line.isprintable() for line in log)
    return [parsed(line.partition(" mc.action: ")[2]) for line in log if " mc.action: " in line]


def url(machine: str, part: str) -> str:
    return f"/service/{quote(machine, safe='')}/{part}"


def entry(
    daemon: Daemon,
    status: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, str]:
    """The only line about a request that is answered so."""
    start = daemon.log_size()
    answer = daemon.request(method, path, body, headers)
    assert answer.status == status, answer
    (only,) = lines(daemon, start)
    assert (only["client"], only["ms"].isdigit()) == ("127.0.0.1", True)
    return only


@pytest.mark.parametrize("number", range(len(MACHINES)))
@pytest.mark.parametrize("spell", [str, str.upper, lambda uuid: uuid.replace("-", "")])
def test_machine_has_name_and_uuid_however_it_was_called(
    daemon: Daemon, number: int, spell: type[str]
) -> None:
    name, uuid = MACHINES[number][0], uuid_of(number)
    for reference in (name, spell(uuid)):
        for verb, status, outcome in (
            ("force_off", OK, "changed, shut off"),
            ("force_off", OK, "unchanged, shut off"),
            ("nmi", 409, "WrongState: cannot nmi a machine that is shut off (unknown): "),
        ):
            daemon.act(name, "power_on" if outcome.startswith("changed") else "force_off")
            only = entry(daemon, status, "GET", url(reference, f"state_controller/{verb}"))
            assert (only["verb"], only["machine"], only["uuid"]) == (verb, name, uuid)
            assert re.sub(r"\(.*?\)", "(unknown)", only["outcome"]).startswith(outcome), only
        only = entry(daemon, 409, "PUT", url(reference, "boot"), b'{"device": "cdrom"}')
        assert (only["verb"], only["machine"], only["uuid"]) == ("boot", name, uuid)
        assert only["outcome"].startswith("CannotBoot: ")
    daemon.act(name, "power_on")


def test_machine_that_there_is_not_is_what_it_was_called(daemon: Daemon) -> None:
    for reference in ("nope", "x\r\n2026 forged", ODD, uuid_of(99)):
        only = entry(daemon, 404, "GET", url(reference, "state_controller/nmi"))
        assert (only["machine"], only["uuid"]) == (reference, "-")
        assert only["outcome"].startswith("NoSuchMachine: ")


@pytest.mark.parametrize(
    ("method", "part", "body", "used"),
    [
        ("GET", "state_controller/force_off", None, {}),
        ("GET", "state_controller/power_off", None, {"wait": "0", "force": "false"}),
        ("POST", "state_controller/power_off?wait=0.25", None, {"wait": "0.25", "force": "false"}),
        ("GET", "state_controller/power_off?force=1", None, {"wait": "25", "force": "true"}),
        ("POST", "state_controller/power_off", b'{"force": true, "wait": 7}',
         {"wait": "7", "force": "true"}),
        ("GET", "state_controller/pxeboot", None,
         {"device": "pxe", "once": "false", "grace": "25", "discard_saved": "false"}),
        ("POST", "state_controller/diskboot?once=true&grace=15", b'{"discard_saved": true}',
         {"device": "disk", "once": "true", "grace": "15", "discard_saved": "true"}),
        ("GET", "state_controller/defaultboot?grace=0", None,
         {"device": "default", "once": "false", "grace": "0", "discard_saved": "false"}),
        ("PUT", "boot", b'{"device": "pxe"}',
         {"device": "pxe", "once": "false", "discard_saved": "false"}),
        ("PUT", "boot?once=1&discard_saved=1", b'{"device": "disk"}',
         {"device": "disk", "once": "true", "discard_saved": "true"}),
        ("PUT", "boot?device=none", None,
         {"device": "none", "once": "false", "discard_saved": "false"}),
        ("GET", "force_reset", None, {}),
    ],
)  # fmt: skip
def test_parameters_are_told_as_they_counted(
    daemon: Daemon, method: str, part: str, body: bytes | None, used: dict[str, str]
) -> None:
    """Those that were not given as well; and on errors as well."""
    daemon.act("vm", "power_on")
    verb = part.partition("?")[0].rpartition("/")[2]
    for machine, status in (("vm", OK), ("nope", 404)):
        only = entry(daemon, status, method, url(machine, part), body)
        others = {key: value for key, value in only.items() if key not in (*ALWAYS, "verb", "done")}
        assert (others.pop("host"), [*only][-1]) == ("local", "host")
        assert ("done" in only) == (only["outcome"].startswith("changed"))
        assert (only["verb"], others) == (verb, used)


def test_line_is_as_the_readme_shows_it(daemon: Daemon) -> None:
    (shown,) = re.findall(r"^> `(pxeboot .*?)`$", README.read_text(), re.MULTILINE | re.DOTALL)
    daemon.act("vm", "power_on")
    path = url("vm", "state_controller/pxeboot?once=true&grace=15")
    differs = {"client", "user", "machine", "uuid", "ms"}
    told, real = parsed(shown.replace("\n> ", " ")), entry(daemon, OK, "GET", path)
    assert list(told) == list(real)
    assert {key: told[key] for key in told if key not in differs} == {
        key: real[key] for key in real if key not in differs
    }


def signed(method: str, path: str, user: str, daemon: Daemon) -> dict[str, str]:
    """The header of a user, whose name may hold what HTTP has quoted."""
    nonce = nonce_of(daemon.get("/"))
    made = authorization(path, nonce, user=user, password=USERS[user], method=method)
    value = made["Authorization"]
    return {"Authorization": value.replace(f'"{user}"', json.dumps(user))}


def ask(daemon: Daemon, user: str, method: str, path: str, **more: str) -> Answer:
    headers = signed(method, path, user, daemon) | more
    return daemon.request(method, path, b"{}" if method != "GET" else None, headers)


def test_what_a_reader_tries_is_told(guarded: Daemon) -> None:
    for machine, method, part in (
        ("vm", "GET", "state_controller/force_off"),
        ("vm", "POST", "state_controller/pxeboot"),
        (NAME, "GET", "force_reset"),
        ("vm", "PUT", "boot"),
        ("nope", "PUT", "boot"),
    ):
        start = guarded.log_size()
        assert ask(guarded, "monitor", method, url(machine, part)).status == FORBIDDEN
        (only,) = lines(guarded, start)
        verb = part.rpartition("/")[2]
        assert (only["verb"], only["user"], only["machine"]) == (verb, "monitor", machine)
        assert only["outcome"] == "Forbidden: monitor may only read"


def test_name_of_a_user_forges_nothing(guarded: Daemon) -> None:
    start = guarded.log_size()
    assert ask(guarded, ODD_USER, "GET", url("off", "state_controller/nmi")).status == 409
    (only,) = lines(guarded, start)
    assert only["user"] == ODD_USER
    assert only["outcome"].startswith("WrongState: ")


def test_strangers_write_nothing_about_actions(guarded: Daemon) -> None:
    start = guarded.log_size()
    path = url("vm", "state_controller/force_off")
    for headers in ({}, {"Origin": "http://evil.example"}, {"Authorization": "Basic x"}):
        assert guarded.request("GET", path, headers=headers).status == UNAUTHORIZED
    assert guarded.request("GET", path, headers={"Host": "evil.example"}).status == 421
    assert lines(guarded, start) == []


@pytest.mark.parametrize(
    ("header", "value", "words"),
    [
        ("Origin", "http://evil.example", "a page of another host"),
        ("Sec-Fetch-Site", "cross-site", "a cross-site page"),
        ("Purpose", "prefetch", "a prefetch"),
    ],
)
def test_what_nobody_asked_for_is_told(daemon: Daemon, header: str, value: str, words: str) -> None:
    for method, part in (("GET", "state_controller/nmi"), ("PUT", "boot")):
        path = url(uuid_of(0), part)
        only = entry(daemon, FORBIDDEN, method, path, None, {header: value})
        assert (only["machine"], only["uuid"], only["user"]) == (uuid_of(0), "-", "-")
        assert only["outcome"].startswith(f"Forbidden: {words} ")


@pytest.mark.parametrize(
    ("method", "part", "body", "words"),
    [
        ("GET", "state_controller/power_off?wait=x%0Ay", None, "wait = 'x\\ny': must be"),
        ("POST", "state_controller/nmi", b'{"a b": 1}', "there is no parameter 'a b' here"),
        ("PUT", "boot", b"device=pxe", "the body is not JSON"),
        ("PUT", "boot", b'{"device": "usb"}', "device = 'usb': must be one of"),
        ("PUT", "boot", None, "a device is needed"),
        ("POST", "state_controller/pxeboot?x=%ff", None, "the query cannot be decoded"),
    ],
)
def test_what_cannot_be_understood_is_told(
    daemon: Daemon, method: str, part: str, body: bytes | None, words: str
) -> None:
    only = entry(daemon, BAD_REQUEST, method, url(NAME, part), body)
    assert only["machine"] == NAME
    assert only["outcome"].startswith(f"BadRequest: {words}"), only


def test_what_is_no_action_is_not_told(daemon: Daemon) -> None:
    start = daemon.log_size()
    for method, path in (
        ("GET", "/service/vm"),
        ("GET", url("vm", "boot")),
        ("GET", url("vm", "boot?x=1")),
        ("HEAD", url("vm", "state_controller/nmi")),
        ("OPTIONS", url("vm", "state_controller/nmi")),
        ("DELETE", url("vm", "boot")),
        ("GET", url("vm", "state_controller/explode")),
    ):
        daemon.request(method, path)
    assert lines(daemon, start) == []


MACHINE = Machine(1, "vm", uuid_of(0), "running")


@pytest.fixture
def caught(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "mc.action")
    return caplog


def test_commands_are_told_when_it_ends_well_or_not(caught: pytest.LogCaptureFixture) -> None:
    with journal("pxeboot", "vm", Metrics(), {"once": True}) as noted:
        noted.finish(MACHINE, now="running", done=("shutdown", "start"))
    error = NoAnswer("start")
    error.name, error.uuid, error.done = MACHINE.name, MACHINE.uuid, ("define", "destroy")
    with pytest.raises(NoAnswer), journal("pxeboot", uuid_of(0), Metrics(), {}):
        raise error
    with journal("nmi", "vm", Metrics(), {}) as noted:
        noted.finish(MACHINE, now="running", done=())
    with pytest.raises(NoSuchMachine), journal("nmi", "vm", Metrics(), {}):
        raise NoSuchMachine("vm")
    well, badly, nothing, unknown = map(parsed, caught.messages)
    assert caught.messages[0].endswith(" once=true done=shutdown,start")
    assert (well["done"], badly["done"]) == ("shutdown,start", "define,destroy")
    assert (badly["machine"], badly["uuid"]) == ("vm", uuid_of(0))
    assert not {"done"} & (nothing.keys() | unknown.keys())


def test_error_of_ours_is_told_as_well(caught: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError), journal("nmi", "vm", Metrics(), {}):
        raise ZeroDivisionError
    (only,) = map(parsed, caught.messages)
    assert (only["machine"], only["outcome"]) == ("vm", "failed")


def refuse(refusals: Refusals, status: HTTPStatus) -> None:
    with pytest.raises(Problem), refusals.logged("nmi", "vm"):
        raise Problem(status, "so")


def test_page_that_tries_again_and_again_does_not_fill_the_log(
    caught: pytest.LogCaptureFixture,
) -> None:
    refusals = Refusals(most=3)
    for _ in range(20):
        refuse(refusals, HTTPStatus.FORBIDDEN)
    assert len(caught.messages) == 3
    refuse(refusals, HTTPStatus.BAD_REQUEST)
    assert len(caught.messages) == 4


def test_how_many_were_left_out_is_told_later(caught: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(most=1, seconds=0.1)

    def told() -> list[str]:
        refuse(refusals, HTTPStatus.FORBIDDEN)
        refuse(refusals, HTTPStatus.FORBIDDEN)
        return [line for line in caught.messages if line.startswith("forbidden actions that")]

    assert re.fullmatch(r".* not logged: [1-9]\d*", until(told, 30, "the number")[0])
