"""Hosts that go away, by every transport: the daemon is right again afterwards, without a restart.

Each fault meets a daemon that is connected and one that is not yet, over all transports at once.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.daemon import Daemon
from tests.documented import Administrator
from tests.event_source import EventSource
from tests.lab import Host, Network, processes, until

PATIENCE = 60
AWAY = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


@dataclass
class Way:
    """A host by one transport, and the daemon that has been connected to it all the time."""

    network: Network
    host: Host
    uri: str
    daemon: Daemon
    events: EventSource

    def new_daemon(self) -> Daemon:
        return Daemon("--connect", self.uri, python=self.network.python)

    def master(self) -> int | None:
        """The process of the login that all sessions share; None if there is none."""
        command = [self.network.shell, "-c", 'ssh -O check "$0"', f"mc@{self.host.name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return None if done.returncode else int(done.stderr.partition("pid=")[2].split(")")[0])


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Way]]:
    with Network() as network:
        administrator = Administrator(network, tmp_path_factory.mktemp("administrator"))
        authority = administrator.authority()
        hosts = {name: administrator.tls_host(authority, name) for name in ("unix", "tls", "ssh")}
        pki, _ = administrator.tls_controller(authority, hosts["tls"])
        administrator.ssh_controller()
        administrator.ssh_host(hosts["ssh"])
        uris = {
            "unix": hosts["unix"].uri("unix"),
            "tls": hosts["tls"].uri("tls", pkipath=str(pki)),
            "ssh": hosts["ssh"].uri("ssh", no_tty="1"),
        }
        ways = {}
        for name, uri in uris.items():
            daemon = Daemon("--connect", uri, python=network.python)
            ways[name] = Way(network, hosts[name], uri, daemon, EventSource(daemon))
            hosts[name].lab.define("m")
        yield ways
        for way in ways.values():
            way.events.close()
            with way.daemon:
                pass
            left = partial(programs, way)
            until(left, PATIENCE, f"end of all for {way.uri}", lambda lines: not lines)


def programs(way: Way) -> list[str]:
    """Command lines of virsh and ssh for a host, but for the login that shall outlive them."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        # One that has just ended has none any more.
        with suppress(FileNotFoundError, ProcessLookupError):
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            is_ours = line.startswith(("ssh ", "virsh ", "/usr/bin/ssh "))
            if is_ours and (way.host.name in line or way.uri in line):
                lines.append(line)
    return lines


class Fault:
    """What befalls a host, or its connections, and how it ends; `seconds`: its shortest time."""

    ways: tuple[str, ...] = ("unix", "tls", "ssh")
    seconds = 0.0
    is_away = True
    """Whether the host cannot be reached meanwhile."""

    def begin(self, way: Way) -> None:
        raise NotImplementedError

    def end(self, way: Way) -> None:
        """Nothing, where it is over already."""


class Cut(Fault):
    """Ended once ssh has given up the shared login, if it is to: it would block new sessions."""

    ways = ("tls", "ssh")

    def __init__(self, seconds: float, *, ends_login: bool = False) -> None:
        self.seconds = seconds
        self._ends_login = ends_login

    def begin(self, way: Way) -> None:
        way.host.cut()

    def end(self, way: Way) -> None:
        try:
            if self._ends_login:
                until(way.master, PATIENCE, "end of the login", lambda pid: pid is None)
        finally:
            way.host.mend()


class Freeze(Fault):
    def begin(self, way: Way) -> None:
        way.host.freeze()

    def end(self, way: Way) -> None:
        way.host.thaw()


class DeadLibvirtd(Fault):
    def begin(self, way: Way) -> None:
        way.host.lab.libvirtd.kill()

    def end(self, way: Way) -> None:
        way.host.lab.libvirtd.start()


class PowerLoss(Fault):
    ways = ("tls", "ssh")

    def begin(self, way: Way) -> None:
        way.host.lose_power()

    def end(self, way: Way) -> None:
        way.host.regain_power()


class DeadVirsh(Fault):
    is_away = False

    def begin(self, way: Way) -> None:
        for pid in way.daemon.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class DeadMaster(Fault):
    ways = ("ssh",)
    is_away = False

    def begin(self, way: Way) -> None:
        pid = way.master()
        assert pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: way.master() != pid, PATIENCE, "end of the login")


FAULTS = {
    "cut 5 s": Cut(5),
    "cut 15 s": Cut(15, ends_login=True),
    "freeze": Freeze(),
    "dead libvirtd": DeadLibvirtd(),
    "power loss": PowerLoss(),
    "dead virsh": DeadVirsh(),
    "dead master": DeadMaster(),
}


def say_that_it_is_away(*daemons: Daemon) -> None:
    """And neither that there is no such machine, nor how it was before."""
    paths = ("/service/machines", "/service/m/state_controller/status")
    with ThreadPoolExecutor(len(daemons) * len(paths)) as threads:
        for answer in threads.map(Daemon.get, daemons * len(paths), sorted(paths * len(daemons))):
            assert answer.status in AWAY, answer
            assert answer.json["detail"]


def survive(fault: Fault, way: Way, name: str) -> None:
    """Let a fault come and go; a machine of this name, defined afterwards, must then be told of."""
    begin = time.monotonic()
    assert way.daemon.get("/service/m").status == HTTPStatus.OK
    with ExitStack() as cleanup:
        fault.begin(way)
        try:
            new = cleanup.enter_context(way.new_daemon())
            if fault.is_away:
                say_that_it_is_away(way.daemon, new)
            until(lambda: time.monotonic() - begin > fault.seconds, PATIENCE, "time")
        finally:
            fault.end(way)
        way.host.lab.define(name)
        for daemon in (way.daemon, new):
            status = until(
                partial(status_of, daemon, name),
                PATIENCE,
                f"{name} by the {'old' if daemon is way.daemon else 'new'} daemon",
                lambda status: status not in AWAY,
            )
            assert status == HTTPStatus.OK
            assert "Z" not in [processes.state(pid) for pid in daemon.children()]
        until(partial(is_told, way.events, name), PATIENCE, f"event about {name}")


def is_told(events: EventSource, name: str) -> bool:
    """Whether the next event is about the machine: a whole list, or a change."""
    event, data = events.next()
    machines = {"machines": data, "machine": [data]}.get(event, [])
    return name in [machine["name"] for machine in machines]


def status_of(daemon: Daemon, name: str) -> int:
    return daemon.get(f"/service/{quote(name)}").status


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_daemon_is_right_again(
    ways: dict[str, Way], fault: Fault, request: pytest.FixtureRequest
) -> None:
    chosen = [ways[name] for name in fault.ways]
    with ThreadPoolExecutor(len(chosen)) as threads:
        name = f"after {request.node.callspec.id}"
        done = [threads.submit(survive, fault, way, name) for way in chosen]
    for each in done:
        each.result()
    for way in chosen:
        assert "Traceback" not in way.daemon.log()
