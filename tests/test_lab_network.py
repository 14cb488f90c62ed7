"""The laboratory's network proved on real kernels, libvirts and sshds: others rely on all of it."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.lab import Host, Network, until
from tests.lab.network import LINK

PATIENCE = 30


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def hosts(network: Network) -> list[Host]:
    return [network.host("one"), network.host("two")]


def machines(network: Network, host: Host, *, seconds: float = PATIENCE) -> str:
    """What a new virsh of the client's lists; `Unable to ...` and the like are asserted away."""
    done = subprocess.run(
        [network.shell, "-c", 'exec virsh -q -c "$0" list --all --name', host.uri("tcp")],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_host_has_machines_of_its_own(network: Network, hosts: list[Host]) -> None:
    for number, host in enumerate(hosts):
        host.lab.define(f"m{number}")
    assert [machines(network, host) for host in hosts] == ["m0", "m1"]


def greeted(host: Host) -> socket.socket:
    """A connection to the host's sshd, which has spoken."""
    connection = socket.create_connection((host.address, 22), PATIENCE)
    assert connection.recv(100).startswith(b"SSH-2.0-")
    return connection


def refusals(host: Host) -> int:
    """How many clients spoke nonsense, in sshd's opinion."""
    return host.sshd.log.read_text().count("banner exchange: ")


def test_cut_is_silent_and_ends(network: Network, hosts: list[Host]) -> None:
    """Neither way anything comes through or is told; what was sent meanwhile arrives afterwards."""
    one, two = hosts
    with greeted(one) as before, greeted(one) as meanwhile:
        one.freeze()
        before.sendall(b"nonsense\r\n")
        one.cut()
        try:
            one.thaw()
            until(lambda: refusals(one), PATIENCE, "answer")
            meanwhile.sendall(b"nonsense\r\n")
            before.settimeout(1)
            with pytest.raises(TimeoutError):
                before.recv(100)
            with pytest.raises(subprocess.TimeoutExpired):
                machines(network, one, seconds=1)
            machines(network, two)
            assert refusals(one) == 1
        finally:
            one.mend()
        for connection in (before, meanwhile):
            connection.settimeout(PATIENCE)
            assert b"Invalid SSH identification" in connection.recv(100)
        assert refusals(one) == 2
    machines(network, one)


def test_address_of_nobody_is_a_black_hole(network: Network) -> None:
    with pytest.raises(TimeoutError):
        socket.create_connection((network.address(250), 22), timeout=1)


def test_frozen_host_takes_connections_and_is_silent(network: Network, hosts: list[Host]) -> None:
    one, two = hosts
    one.freeze()
    try:
        with socket.create_connection((one.address, 22), PATIENCE) as connection:
            connection.settimeout(1)
            with pytest.raises(TimeoutError):
                connection.recv(100)
        with pytest.raises(subprocess.TimeoutExpired):
            machines(network, one, seconds=1)
        machines(network, two)
    finally:
        one.thaw()
    machines(network, one)


def test_client_finds_names_and_its_own_home(network: Network, hosts: list[Host]) -> None:
    code = "import os, pwd, socket; print(os.environ['HOME'], pwd.getpwuid(0).pw_dir)"
    code += f"; print(socket.gethostbyname('{hosts[1].name}'))"
    done = subprocess.run([network.python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(network.home)] * 2 + [hosts[1].address]


def links() -> set[str]:
    """The networks that are joined to ours."""
    return {name for _, name in socket.if_nameindex() if name.startswith(LINK)}


def processes_of(folder: str) -> list[str]:
    """The command lines of those processes that name the folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if folder in line:
            lines.append(line)
    return lines


@pytest.mark.parametrize("number", [None, signal.SIGKILL])
def test_nothing_is_left(number: signal.Signals | None) -> None:
    """Nor where whoever made the network is killed, but for files."""
    code = (
        "from tests.lab import Network\n"
        "with Network() as network:\n"
        "    lab = network.host('one').lab\n"
        "    print(network.folder, lab.folder, network.router.pid, network.link, flush=True)\n"
        "    input()\n"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdin and maker.stdout
    with maker:
        folder, lab, router, link = maker.stdout.readline().split()
        assert processes_of(folder) and processes_of(lab) and link in links()
        if number:
            maker.send_signal(number)
        else:
            print(file=maker.stdin, flush=True)
        maker.wait(PATIENCE)
    for path in (folder, lab):
        left = partial(processes_of, path)
        until(left, PATIENCE, "end of all processes", lambda lines: not lines)
    until(lambda: Path(f"/proc/{router}").exists(), PATIENCE, "end of it", lambda left: not left)
    until(links, PATIENCE, f"end of {link}", lambda left: link not in left)
    for path in (folder, lab):
        assert Path(path).exists() == bool(number)
        shutil.rmtree(path, ignore_errors=True)
