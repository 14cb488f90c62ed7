"""IPMI and a controller that does not answer in time: nothing is done twice, nothing is lost."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chassis import PROGRAM, UUID, call, configured, count, do, tell
from tests.daemon import Daemon
from tests.detour import Detour
from tests.hypervisor import DEVICES, hypervisor
from tests.ipmi import PATIENCE, Simulator, free_ports, idle, ports_of
from tests.lab import until


@pytest.fixture
def uri(tmp_path: Path) -> str:
    machines = [(f"vm-{n}", "running") for n in range(2)]
    return hypervisor(tmp_path / "machines.xml", machines, DEVICES)


@pytest.fixture
def daemon(uri: str, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon("--connect", uri, "--backup-dir", str(tmp_path / "backups")) as daemon:
        yield daemon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ipmi"


def test_action_goes_on_and_is_done_once(folder: Path, daemon: Daemon) -> None:
    with Detour(daemon.port) as detour:
        configured(folder, detour.port)
        detour.open.clear()
        for _ in range(3):
            tell(folder, "set", "reset", "1")
        detour.open.set()
        until(lambda: idle(folder), PATIENCE, "end of the job")
    assert count(daemon, "reset") == 1


def test_what_comes_after_an_answer_is_a_new_action(folder: Path, daemon: Daemon) -> None:
    configured(folder, daemon.port)
    for _ in range(3):
        do(folder, "set", "reset", "1")
    assert count(daemon, "reset") == 3


class Port:
    """A machine's port, from which nobody reads: while a program runs, nor does ipmi_sim."""

    def __init__(self, folder: Path, bound: socket.socket) -> None:
        self._folder = folder
        self._bound = bound
        self._bound.bind(("127.0.0.1", ports_of(folder)[UUID]))

    def send(self, number: int, payload: int = 0xC0) -> None:
        """A message of a session, or one that opens a session."""
        head = bytes([6, 0, 0xFF, 7, 6, payload]) + number.to_bytes(8, "big")
        self._bound.sendto(head + b"secret", self._bound.getsockname())

    def read(self) -> None:
        self._bound.recv(100)

    def start(self, *request: str) -> str:
        """The program, which gets the port as from ipmi_sim; until what it does is done."""
        command = [sys.executable, "-E", "-s", "-S", str(PROGRAM), f"{self._folder}/settings.json"]
        descriptor = self._bound.fileno()
        done = subprocess.run(
            [*command, UUID, *request],
            check=True,
            timeout=PATIENCE,
            pass_fds=[descriptor],
            stdout=subprocess.PIPE,
            text=True,
        )
        until(lambda: idle(self._folder), PATIENCE, "end of the job")
        return done.stdout

    def reset(self) -> None:
        self.start("set", "reset", "1")


@pytest.fixture
def port(folder: Path, daemon: Daemon) -> Iterator[Port]:
    with free_ports() as first_port, socket.socket(type=socket.SOCK_DGRAM) as bound:
        configured(folder, daemon.port, f"--first-port={first_port}")
        yield Port(folder, bound)


SESSION = 1 << 32


def test_what_waited_when_an_answer_was_given_is_a_repetition(port: Port, daemon: Daemon) -> None:
    port.send(SESSION + 1)
    port.send(SESSION + 2)
    port.reset()
    for _ in range(2):
        port.read()
        port.reset()
    assert count(daemon, "reset") == 1
    port.reset()
    port.reset()
    assert count(daemon, "reset") == 3


def test_question_of_another_client_does_not_hide_a_repetition(port: Port, daemon: Daemon) -> None:
    port.send(2 * SESSION + 1)
    port.send(SESSION + 1)
    port.reset()
    port.read()
    port.start("get", "power")
    port.read()
    port.reset()
    assert count(daemon, "reset") == 1


def test_what_is_read_after_the_last_repetition_is_a_new_action(port: Port, daemon: Daemon) -> None:
    port.send(SESSION + 1)
    port.reset()
    port.read()
    port.start("get", "power")
    port.reset()
    assert count(daemon, "reset") == 2


def test_repeated_question_gets_the_answer_that_there_is(port: Port, daemon: Daemon) -> None:
    """Whoever repeats it takes the first answer; no time is spent on more."""
    port.send(SESSION + 1)
    assert port.start("get", "power") == "power:1\n"
    daemon.act("vm-0", "force_off")
    port.read()
    assert port.start("get", "power") == "power:1\n"
    assert port.start("get", "power") == "power:0\n"


def test_question_after_an_action_is_no_repetition(port: Port) -> None:
    port.send(2 * SESSION + 1)
    port.send(SESSION + 1)
    assert port.start("get", "power") == "power:1\n"
    port.read()
    port.start("set", "power", "0")
    port.read()
    assert port.start("get", "power") == "power:0\n"


@pytest.mark.parametrize("payload", [0x10, 0x12, 0x14])
def test_client_that_opens_a_session_repeats_nothing(
    port: Port, daemon: Daemon, payload: int
) -> None:
    port.send(0, payload)
    port.reset()
    port.reset()
    assert count(daemon, "reset") == 2


def test_another_action_between_makes_a_new_one(port: Port, daemon: Daemon) -> None:
    port.send(SESSION + 1)
    for request in (["reset", "1"], ["boot", "none"], ["reset", "1"]):
        port.start("set", *request)
    assert count(daemon, "reset") == 2


def test_same_action_at_once_is_done_once(folder: Path, daemon: Daemon) -> None:
    with Detour(daemon.port) as detour, ThreadPoolExecutor(4) as pool:
        configured(folder, detour.port)
        detour.open.clear()
        list(pool.map(lambda _: tell(folder, "set", "reset", "1"), range(4)))
        detour.open.set()
        until(lambda: idle(folder), PATIENCE, "end of the job")
    assert count(daemon, "reset") == 1


def test_actions_keep_their_order(folder: Path, daemon: Daemon) -> None:
    with Detour(daemon.port) as detour:
        configured(folder, detour.port)
        detour.open.clear()
        for value in "0101":
            tell(folder, "set", "power", value)
        until(lambda: count(daemon, "destroy") == 1, PATIENCE, "first action")
        assert count(daemon, "start") == 0
        detour.open.set()
        until(lambda: idle(folder), PATIENCE, "end of the jobs")
    assert (count(daemon, "destroy"), count(daemon, "start")) == (2, 2)
    assert daemon.status("vm-0")["power"] == "on"


def test_late_failure_is_logged(folder: Path, daemon: Daemon, tmp_path: Path) -> None:
    """To standard error, unless that is a pipe, whose reader would wait for the job."""
    with Detour(daemon.port) as detour, (tmp_path / "log").open("w+") as log:
        configured(folder, detour.port)
        do(folder, "set", "power", "0")
        detour.open.clear()
        command = [sys.executable, "-E", "-s", "-S", str(PROGRAM), f"{folder}/settings.json", UUID]
        subprocess.run([*command, "set", "reset", "1"], stderr=log, check=True, timeout=PATIENCE)
        detour.open.set()
        until(lambda: idle(folder), PATIENCE, "end of the job")
        log.seek(0)
        assert "set reset 1: failed too late" in log.read()


def test_state_learned_too_late_is_told_to_the_next_who_asks(folder: Path, daemon: Daemon) -> None:
    with Detour(daemon.port) as detour:
        configured(folder, detour.port)
        before = detour.requests
        detour.open.clear()
        for _ in range(2):
            assert "does not answer in time" in call(folder, "get", "power").stderr
        until(lambda: detour.requests > before, PATIENCE, "question")
        assert detour.requests == before + 1
        detour.open.set()
        until(lambda: idle(folder), PATIENCE, "end of the job")
        assert tell(folder, "get", "power") == "power:1\n"
        daemon.act("vm-0", "force_off")
        assert tell(folder, "get", "power") == "power:0\n"


def test_state_learned_before_an_action_is_not_told_after_it(folder: Path, daemon: Daemon) -> None:
    with Detour(daemon.port) as detour:
        configured(folder, detour.port)
        detour.open.clear()
        assert "does not answer in time" in call(folder, "get", "power").stderr
        until(lambda: detour.answered, PATIENCE, "answer under way")
        tell(folder, "set", "power", "0")
        detour.open.set()
        until(lambda: idle(folder), PATIENCE, "end of the jobs")
        assert tell(folder, "get", "power") == "power:0\n"


def test_power_is_never_told_as_it_was_before_an_action(folder: Path, daemon: Daemon) -> None:
    with Detour(daemon.port) as detour:
        configured(folder, detour.port)
        detour.held = "POST"
        tell(folder, "set", "power", "0")
        assert "does not answer in time" in call(folder, "get", "power").stderr
        assert call(folder, "get", "boot").stdout == "boot:none\n"
        detour.go.set()
        assert tell(folder, "get", "power") == "power:0\n"


def test_boot_device_is_set_or_not(folder: Path, daemon: Daemon) -> None:
    """Nobody is told that it is set before it is, and then nobody that it is not."""
    with Detour(daemon.port) as detour:
        configured(folder, detour.port)
        detour.held = "PUT"
        assert "does not answer in time" in call(folder, "set", "boot", "pxe").stderr
        assert call(folder, "set", "power", "0").returncode == 0
        assert "does not answer in time" in call(folder, "get", "boot").stderr
        detour.go.set()
        until(lambda: idle(folder), PATIENCE, "end of the jobs")
        assert tell(folder, "get", "boot") == "boot:pxe\n"


@pytest.mark.parametrize("seconds", [0, 0.3])
def test_each_reset_by_ipmitool_is_one(folder: Path, daemon: Daemon, seconds: float) -> None:
    """However soon it follows the one before, and however long ipmi_sim has been at work."""
    with Detour(daemon.port, seconds) as detour, free_ports() as first_port:
        configured(folder, detour.port, f"--first-port={first_port}")
        with Simulator(folder) as simulator:
            bmc = simulator.bmc(UUID)
            for _ in range(6):
                began = time.monotonic()
                bmc("chassis", "power", "reset")
                if time.monotonic() - began > 0.9:
                    bmc.power()  # The host is so slow that it may have been repeated.
    assert count(daemon, "reset") == 6


def test_repetition_by_ipmitool_is_the_same(folder: Path, daemon: Daemon) -> None:
    """On a host so slow that the program takes longer than ipmitool waits."""
    with free_ports() as first_port:
        configured(folder, daemon.port, f"--first-port={first_port}")
        started = folder / "started"
        lan = (folder / "lan.conf").read_text()
        slowly = lan.replace('chassis_control "', f'chassis_control "echo >>{started}; sleep 1.5; ')
        (folder / "lan.conf").write_text(slowly)
        with Simulator(folder) as simulator:
            simulator.bmc(UUID).run("chassis", "power", "reset")
            until(lambda: len(started.read_text()) > 1, PATIENCE, "repetition")
            # Answered when the repetitions that came before it are.
            simulator.bmc(UUID).run("chassis", "power", "status")
    assert count(daemon, "reset") == 1


def test_ipmi_sim_can_be_restarted_while_an_action_goes_on(folder: Path, daemon: Daemon) -> None:
    with Detour(daemon.port) as detour, free_ports() as first_port:
        configured(folder, detour.port, f"--first-port={first_port}")
        first = Simulator(folder)
        bmc = first.bmc(UUID)
        detour.open.clear()
        bmc.run("chassis", "power", "reset")
        until(lambda: detour.answered, PATIENCE, "reset")
        first.process.terminate()
        first.process.wait(PATIENCE)
        with Simulator(folder) as second:
            assert not idle(folder)
            second.bmc(UUID)
            detour.open.set()
    assert count(daemon, "reset") == 1
