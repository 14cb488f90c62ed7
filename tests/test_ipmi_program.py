"""The program that ipmi_sim starts, called as ipmi_sim does, on the embedded hypervisor."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificate import certificate
from tests.chassis import call, configured, count, do, refuse, tell
from tests.daemon import PROGRAM as DAEMON
from tests.daemon import Daemon
from tests.hypervisor import hypervisor, uuid_of
from tests.ipmi import PASSWORD

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
