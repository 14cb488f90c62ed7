"""Hosts by tls and ssh, set up by the very commands of docs/hosts.md: what works, what is said.

With a real sshd and a real libvirtd, in network namespaces: see tests/lab/network.py.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests import documented
from tests.daemon import Daemon
from tests.documented import Administrator
from tests.lab import Host, Network

NOBODY = 250
"""No host has that address."""


@dataclass(frozen=True)
class Site:
    """What the administrator has made of the page.

    pki: what the controller has. other_pki: by another authority, without that of the hosts.
    host: open by both ways. down: the same, but libvirtd is down. closed: takes another key than
    the controller's, `locked`, which has a passphrase.
    """

    network: Network
    authority: Path
    other_authority: Path
    pki: Path
    host: Host
    down: Host
    closed: Host
    locked: Path
    printed: dict[str, str]

    def tls(self, name: str, pki: Path) -> str:
        return f"qemu+tls://{name}/session?{urlencode({'pkipath': pki}, safe='/')}"

    def ssh(self, name: str) -> str:
        return f"qemu+ssh://mc@{name}/session?no_tty=1"

    def daemon(self, uri: str) -> Daemon:
        return Daemon("--connect", uri, python=self.network.python)

    def files(self, name: str, **sources: Path) -> Path:
        """A new `pkipath` with such files."""
        folder = self.authority.parent / name
        folder.mkdir()
        for file, source in sources.items():
            shutil.copy(source / f"{file}.pem", folder)
        return folder

    def certify(self, folder: Path, subject: str, days: int) -> None:
        """A client certificate by the hosts' authority, for somebody else or already too old."""
        script, authority = documented.scripts("TLS")[0], self.authority
        for command in documented.commands(script):
            if "client" in command:
                line = command.replace("/CN=libvirt_mc", f"/CN={subject}")
                line = re.sub(r"-days \d+", f"-days {days}", line)
                line = line.replace("cakey.pem", str(authority / "cakey.pem"))
                line = re.sub(r"(?<=-CA )cacert.pem", str(authority / "cacert.pem"), line)
                subprocess.run(["sh", "-euc", line], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Network() as network:
        administrator = Administrator(network, tmp_path_factory.mktemp("administrator"))
        authority, other = administrator.authority(), administrator.authority("other")
        host, down, closed = (
            administrator.tls_host(authority, name) for name in ("open", "down", "closed")
        )
        host.lab.define("web-1")
        printed = {}
        pki, printed["tls"] = administrator.tls_controller(authority, host)
        administrator.ssh_controller()
        printed["ssh"] = administrator.ssh_host(host)
        administrator.ssh_host(down)
        administrator.ssh_host(closed)
        locked = network.home / "locked"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked], check=True
        )
        closed.sshd.authorize(locked.with_suffix(".pub").read_text())
        log_out(network, closed)
        down.lab.libvirtd.kill()
        known = network.home / ".ssh/known_hosts"
        with known.open("a") as lines:
            key = next(line for line in known.read_text().splitlines() if host.name in line)
            lines.write(key.replace(host.name, "nobody.example") + "\n")
            lines.write(f"changed.example {closed.sshd.host_key}")
        network.name("changed.example", host.address)
        network.name("stranger.example", host.address)
        network.name("nobody.example", network.address(NOBODY))
        yield Site(network, authority, other, pki, host, down, closed, locked, printed)
        for each in (host, down):
            log_out(network, each)


def log_out(network: Network, host: Host) -> None:
    """End the login that the sessions of a host share."""
    command = [network.shell, "-c", 'ssh -O exit "$0"', f"mc@{host.name}"]
    subprocess.run(command, check=True, capture_output=True)


def test_every_command_is_run_or_has_a_reason() -> None:
    """The administrator runs all scripts of two sections, so there must be none elsewhere."""
    scripts = documented.scripts("TLS") + documented.scripts("ssh")
    assert len(scripts) == documented.PAGE.count("```sh\n")
    there = [command for script in scripts for command in documented.commands(script)]
    assert [command for command in documented.NOT_RUN if command not in there] == []


@pytest.mark.parametrize("way", ["tls", "ssh"])
def test_host_is_managed_by_the_documented_way(site: Site, way: str) -> None:
    uri = site.tls(site.host.name, site.pki) if way == "tls" else site.ssh(site.host.name)
    assert site.printed[way] == uri
    with site.daemon(uri) as daemon:
        (machine,) = daemon.get("/service/machines").json
        assert machine["name"] == "web-1"
        body = b'{"device": "disk"}'
        answer = daemon.request(
            "PUT", "/service/web-1/boot", body, {"Content-Type": "application/json"}
        )
        assert answer.status == HTTPStatus.OK, answer
        for verb, power in (("power_on", "on"), ("force_off", "off")):
            assert daemon.act("web-1", verb).status == HTTPStatus.OK
            assert daemon.status("web-1")["power"] == power


def test_sessions_share_one_login(site: Site) -> None:
    before = logins(site.host)
    with site.daemon(site.ssh(site.host.name)) as daemon:
        assert daemon.get("/service/machines").status == HTTPStatus.OK
        assert daemon.status("web-1")
        assert len(daemon.children()) > 1
    assert logins(site.host) <= before + 1


def logins(host: Host) -> int:
    return host.sshd.log.read_text().count("Accepted publickey for mc ")


def test_key_opens_nothing_but_libvirt(site: Site) -> None:
    done = subprocess.run(
        [site.network.shell, "-c", 'ssh "$0" id </dev/null', f"mc@{site.host.name}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "uid=" not in done.stdout


# What a session says, by the words that the page explains.


def no_certificate(site: Site) -> str:
    return site.tls(site.host.name, site.files("none", cacert=site.authority))


def certificate_of_somebody_else(site: Site) -> str:
    files = site.files("somebody", cacert=site.authority)
    site.certify(files, "somebody", 1)
    return site.tls(site.host.name, files)


def certificate_too_old(site: Site) -> str:
    files = site.files("old", cacert=site.authority)
    site.certify(files, "libvirt_mc", -1)
    return site.tls(site.host.name, files)


def other_authority(site: Site) -> str:
    return site.tls(site.host.name, site.other_authority)


def certificate_of_another_authority(site: Site) -> str:
    other = site.other_authority
    files = site.files("mixed", cacert=site.authority, clientcert=other, clientkey=other)
    return site.tls(site.host.name, files)


def key_of_another_certificate(site: Site) -> str:
    one, other = site.authority, site.other_authority
    return site.tls(site.host.name, site.files("torn", cacert=one, clientcert=one, clientkey=other))


CASES: dict[str, list[Callable[[Site], str]]] = {
    "No ED25519 host key is known for": [lambda site: site.ssh("stranger.example")],
    "REMOTE HOST IDENTIFICATION HAS CHANGED": [lambda site: site.ssh("changed.example")],
    "Permission denied (publickey": [
        lambda site: site.ssh(site.closed.name),
        lambda site: site.ssh(site.closed.name) + f"&keyfile={site.locked}",
        lambda site: site.ssh(site.closed.name) + "&keyfile=/nowhere/id_ed25519",
    ],
    "the host refuses the client certificate": [no_certificate, certificate_of_somebody_else],
    "owner does not match the hostname": [lambda site: site.tls("stranger.example", site.pki)],
    "hasn't got a known issuer": [other_authority],
    "Our own certificate ... failed validation": [certificate_of_another_authority],
    "has expired": [certificate_too_old],
    "Cannot read CA certificate": [lambda site: site.tls(site.host.name, Path("/nowhere"))],
    "the given key do not match": [key_of_another_certificate],
    "Connection refused": [
        lambda site: site.tls(site.down.name, site.pki),
        lambda site: site.down.uri("unix"),
        lambda site: site.ssh("127.0.0.1:1"),
    ],
    "cannot connect to '...libvirt-sock'": [lambda site: site.ssh(site.down.name)],
    "Unable to resolve address": [lambda site: site.tls("unheard-of.example", site.pki)],
    "Could not resolve hostname": [lambda site: site.ssh("unheard-of.example")],
    "Connection timed out": [lambda site: site.ssh("nobody.example")],
    "did not answer": [lambda site: site.tls("nobody.example", site.pki)],
}

NOT_TRIED = {
    "is not yet active": "openssl of Debian 12 makes no such certificate without ado",
}


def test_every_word_that_is_explained_is_said() -> None:
    rows = re.findall(r"^\| (`.*?) \|", documented.section("What it says, and what to do"), re.M)
    explained = [
        word.replace("kvm2.example", "").strip()
        for row in rows[1:]
        for word in re.findall("`(.*?)`", row)
    ]
    assert sorted(explained) == sorted([*CASES, *NOT_TRIED])


@pytest.mark.parametrize(
    ("words", "case"),
    [
        pytest.param(words, case, id=f"{words}-{number}")
        for words, cases in CASES.items()
        for number, case in enumerate(cases)
    ],
)
def test_words_for_what_is_wrong(site: Site, words: str, case: Callable[[Site], str]) -> None:
    """They are in the answer, and no more than can be read."""
    with site.daemon(case(site)) as daemon:
        answer = daemon.get("/service/machines")
        assert answer.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
        detail = answer.json["detail"]
        assert re.search(re.escape(words).replace(r"\.\.\.", ".*"), detail), detail
        assert "@@@" not in detail
        assert len(detail) < 350, detail
        assert "Traceback" not in daemon.log()
