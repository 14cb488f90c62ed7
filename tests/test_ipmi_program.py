"""The program that ipmi_sim starts, called as ipmi_sim does, on the embedded hypervisor."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificate import certificate
from tests.chassis import UUID, call, configured, count, do, refuse, tell
from tests.daemon import PROGRAM as DAEMON
from tests.daemon import Daemon
from tests.hypervisor import hypervisor, uuid_of
from tests.ipmi import PASSWORD
from tests.many_hosts import PREFIX, many_hosts, proxy, uuid_on
from tests.other_service import other_service

ACCOUNT = ["--user", "ipmi"]
SECRET = 'se cret: "\\ü'  # noqa: S105


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Accounts for `ipmi`, and for `monitor`, who may only look."""
    users = tmp_path / "users"
    for name in ("ipmi", "monitor"):
        subprocess.run(
            [sys.executable, str(DAEMON), "--users", str(users), "--add-user", name],
            input=SECRET + "\n",
            text=True,
            check=True,
            capture_output=True,
        )
    return users


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return hypervisor(tmp_path / "machines.xml", [(f"vm-{n}", "running") for n in range(2)])


@pytest.fixture
def daemon(uri: str) -> Iterator[Daemon]:
    with Daemon("--connect", uri) as daemon:
        yield daemon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ipmi"


def test_each_request(folder: Path, daemon: Daemon) -> None:
    configured(folder, daemon.port)
    assert tell(folder, "get", "power") == "power:1\n"
    do(folder, "set", "reset", "1")
    do(folder, "set", "power", "0")
    assert tell(folder, "get", "power") == "power:0\n"
    do(folder, "set", "power", "1")
    do(folder, "set", "shutdown", "1")
    assert tell(folder, "get", "power") == "power:0\n"
    assert tell(folder, "get", "boot") == "boot:none\n"
    assert [count(daemon, each) for each in ("reset", "destroy", "start", "shutdown")] == [1] * 4


@pytest.mark.parametrize(
    "request_",
    [["get", "identify"], ["get"], ["set", "power", "2"], ["set", "boot", "floppy"], ["set"],
     ["set", "reset", "0"], ["set", "identify", "15 0"], ["put", "power"], []],
)  # fmt: skip
def test_what_there_is_not(folder: Path, daemon: Daemon, request_: list[str]) -> None:
    configured(folder, daemon.port)
    before = daemon.virsh_commands()
    refuse(folder, *request_)
    assert daemon.virsh_commands() == before


def test_unknown_machine_is_an_error_and_never_off(folder: Path, daemon: Daemon) -> None:
    configured(folder, daemon.port)
    done = call(folder, "get", "power", uuid=uuid_of(99))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"libvirt has no machine '{uuid_of(99)}'" in done.stderr
    assert call(folder, "set", "power", "0", uuid=uuid_of(99)).returncode == 1
    assert call(folder, "get", "power", uuid="../x").returncode == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_digest_authentication(folder: Path, users: Path, uri: str, scheme: str) -> None:
    cert, key = certificate(users.parent)
    tls = [f"--tls-cert={cert}", f"--tls-key={key}"]
    trust = ["--ca", str(cert)]
    if scheme == "http":
        tls, trust = [], []
    with Daemon("--connect", uri, "--users", str(users), *tls) as daemon:
        configured(
            folder, daemon.port, *ACCOUNT, *trust, scheme=scheme, lines=f"{SECRET}\n{PASSWORD}"
        )
        assert tell(folder, "get", "power") == "power:1\n"
        do(folder, "set", "power", "0")
        assert count(daemon, "destroy") == 1
        assert "wrong password" not in daemon.log()
        settings = json.loads((folder / "settings.json").read_text())
        (folder / "settings.json").write_text(json.dumps(settings | {"password": "wrong"}))
        assert "the user name or the password is wrong" in refuse(folder, "get", "power")
        del settings["user"]
        (folder / "settings.json").write_text(json.dumps(settings))
        assert "a user name and a password are needed" in refuse(folder, "set", "power", "1")
        assert count(daemon, "start") == 0


def test_user_who_may_only_look(folder: Path, users: Path, uri: str, tmp_path: Path) -> None:
    config = tmp_path / "mc.conf"
    config.write_text("[global]\nauth.readers = ['monitor']\n")
    with Daemon("--connect", uri, "--users", str(users), "--config", str(config)) as daemon:
        configured(folder, daemon.port, "--user", "monitor", lines=f"{SECRET}\n{PASSWORD}")
        assert tell(folder, "get", "power") == "power:1\n"
        assert "HTTP status 403" in refuse(folder, "set", "power", "0")


def test_certificate_that_nobody_vouches_for(folder: Path, uri: str, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    tls = [f"--tls-cert={cert}", f"--tls-key={key}"]
    with Daemon("--connect", uri, *tls) as daemon:
        configured(folder, daemon.port, "--ca", str(cert), scheme="https")
        settings = json.loads((folder / "settings.json").read_text())
        del settings["ca"]
        (folder / "settings.json").write_text(json.dumps(settings))
        assert "certificate verify failed" in refuse(folder, "get", "power")


def test_settings_that_others_can_read_are_refused(folder: Path, daemon: Daemon) -> None:
    configured(folder, daemon.port)
    (folder / "settings.json").chmod(0o640)
    assert "chmod 600" in refuse(folder, "get", "power")


def test_controller_that_is_away(folder: Path, uri: str) -> None:
    with Daemon("--connect", uri) as daemon:
        configured(folder, daemon.port)
    for _ in range(2):
        assert "cannot be reached" in refuse(folder, "get", "power")
        assert "cannot be reached" in refuse(folder, "set", "reset", "1")


# Many hosts.

MANY = {"kvm1": [("web", "running")], "kvm2": [("web", "shut off"), ("db", "running")]}


def change(folder: Path, **settings: str) -> None:
    file = folder / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_machine_of_any_host(folder: Path, tmp_path: Path) -> None:
    with many_hosts(tmp_path, MANY) as daemon:
        configured(folder, daemon.port)
        one, other = uuid_on(0, 0), uuid_on(1, 0)
        do(folder, "set", "power", "1", uuid=other)
        do(folder, "set", "power", "0", uuid=one)
        do(folder, "set", "boot", "pxe", uuid=other)
        assert tell(folder, "get", "power", uuid=other) == "power:1\n"
        assert tell(folder, "get", "power", uuid=one) == "power:0\n"
        assert tell(folder, "get", "boot", uuid=other) == "boot:pxe\n"
        assert tell(folder, "get", "boot", uuid=one) == "boot:none\n"
        # One whose settings have been written before there were many hosts.
        settings = json.loads((folder / "settings.json").read_text())
        del settings["path"]
        (folder / "settings.json").write_text(json.dumps(settings))
        assert tell(folder, "get", "power", uuid=other) == "power:1\n"


def test_controller_below_a_path_asks_for_the_password(
    folder: Path, users: Path, tmp_path: Path
) -> None:
    with (
        many_hosts(tmp_path, MANY, "--users", str(users)) as daemon,
        proxy(tmp_path, daemon) as port,
    ):
        lines = f"{SECRET}\n{PASSWORD}"
        for path in ("/hosts/kvm2", PREFIX, f"{PREFIX}/hosts/kvm2"):
            at = daemon.port if path.startswith("/hosts") else port
            configured(
                folder, at, *ACCOUNT, f"--controller=http://127.0.0.1:{at}{path}", lines=lines
            )
            assert tell(folder, "get", "power", uuid=uuid_on(1, 1)) == "power:1\n"
            do(folder, "set", "boot", "pxe", uuid=uuid_on(1, 1))
        assert "wrong password" not in daemon.log()


def test_host_that_is_down_or_unknown_is_told(folder: Path, tmp_path: Path) -> None:
    with many_hosts(tmp_path, MANY, down="kvm3") as daemon:
        base = f"http://127.0.0.1:{daemon.port}"
        configured(folder, daemon.port, f"--controller={base}/hosts/kvm1")
        uuid = uuid_on(0, 0)
        change(folder, path="/hosts/kvm3")
        for request in (("get", "power"), ("set", "power", "1"), ("get", "boot")):
            said = refuse(folder, *request, uuid=uuid)
            # libvirt may have been asked just now.
            assert re.search(r"host kvm3( is down since 20\S+Z)?: .*; try again in \d+ s\)$", said)
        change(folder, path="/hosts/kvm2")
        asked = f"it was asked at {base}/hosts/kvm2)"
        assert f"no machine '{uuid}' (HTTP status 404; {asked}" in refuse(
            folder, "get", "power", uuid=uuid
        )
        change(folder, path="/hosts/kvm9")
        assert "there is no host 'kvm9'" in refuse(folder, "get", "power", uuid=uuid)
        # It may be on the host that is down.
        change(folder, path="")
        said = refuse(folder, "get", "power", uuid=uuid_on(7, 7))
        assert "not heard of: kvm3 (HTTP status 503" in said


def test_uuid_that_runs_on_no_host_or_on_several(folder: Path, tmp_path: Path) -> None:
    machines = {"kvm1": [("vm", "shut off")], "kvm2": [("vm", "shut off")]}
    with many_hosts(tmp_path, machines, one_uuid=True) as daemon:
        base = f"http://127.0.0.1:{daemon.port}"
        configured(folder, daemon.port)
        for request in (("set", "power", "1"), ("get", "power")):
            said = refuse(folder, *request)
            assert "runs on none of them" in said
            assert f"to reach but one: configure.py --controller {base}/hosts/kvm1)" in said
        change(folder, path="/hosts/kvm1")
        do(folder, "set", "power", "1")
        change(folder, path="")
        assert tell(folder, "get", "power") == "power:1\n"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(409, '{"urls": []}', "no reason given (HTTP status 409)"),
     (409, '{"detail": "x", "urls": {"a": 1}}', "x (HTTP status 409)"),
     (409, '{"detail": "x", "urls": ["/elsewhere"]}', "x (HTTP status 409)"),
     (504, '{"detail": "x", "host": "kvm1"}', "host kvm1: x (HTTP status 504)"),
     (503, '{"detail": "x", "host": "kvm1", "since": "2026-01-01T00:00:00Z"}',
      "host kvm1 is down since 2026-01-01T00:00:00Z: x (HTTP status 503; try again in 30 s)"),
     (409, '{"detail": "x", "host": "kvm1"}', "x (HTTP status 409)"),
     (502, "<html>", "no reason given (HTTP status 502)"),
     (500, "[" * 99999, "no reason given (HTTP status 500)"),
     (500, "[1]", "no reason given (HTTP status 500)")],
)  # fmt: skip
def test_refusals(folder: Path, daemon: Daemon, status: int, body: str, said: str) -> None:
    configured(folder, daemon.port)
    with other_service(status, body, Retry_After="30") as port:
        change(folder, port=str(port))
        assert refuse(folder, "get", "power") == f"libvirt_mc IPMI: {UUID} get power: {said}\n"
