"""`libvirt_mc.py` as a process: its options, its exit status, and its end."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import pytest

from mc import __version__
from tests.daemon import PROGRAM, Answer, Daemon
from tests.hypervisor import hypervisor
from tests.lab import processes
from tests.lab.waiting import until

TEST_URI = "test:///default"
PATIENCE = 60
ALL_SETTINGS = """
# Every setting there is.
[global]
server.socket_host = "127.0.0.1"
server.socket_port = 0
server.thread_pool = 10
server.socket_queue_size = 16
server.socket_timeout = 5
server.max_request_header_size = 32768
server.max_request_body_size = 32768
log.level = "warning"
libvirt.uri = "test:///default"
libvirt.virsh = "virsh"
libvirt.read_sessions = 2
libvirt.action_sessions = 2
libvirt.read_seconds = 5
libvirt.action_seconds = 30.0
libvirt.shutdown_mode = "acpi,agent"
service.state_words = "power"
service.turn_seconds = 10
boot.backup_dir = "/nonexistent/backups"
boot.backups_kept = 3
boot.grace_seconds = 2.5
"""


def run(
    *arguments: str, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The program, which is expected to end by itself."""
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The last line on standard error; there must be no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"libvirt_mc {__version__}\n")


def test_help_names_every_option() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    options = ["config", "connect", "listen", "backup-dir", "log-level", "check-config", "version"]
    assert all(f"--{option}" in done.stdout for option in options)


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["--conf=x"], ["start"], ["--listen"], ["--connect"], ["-x"]]
)
def test_unknown_or_incomplete_option_is_refused(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert last_words(done).startswith("libvirt_mc.py: error: ")


@pytest.mark.parametrize("text", ["", "[global]\n", ALL_SETTINGS])
def test_good_file_is_valid(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mc.conf"
    file.write_text(text)
    done = run("--check-config", "--config", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "libvirt_mc: the settings are valid\n"


def test_check_needs_no_virsh(tmp_path: Path) -> None:
    done = run("--check-config", environment={"PATH": str(tmp_path)})
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("server.socket_port = 70000", "server.socket_port = 70000: must be between 0 and 65535"),
        ("server.socket_port = '80'", "server.socket_port = '80': must be of type int"),
        (
            "libvirt.uri = qemu:///system",
            "libvirt.uri = 'qemu:///system': must be a Python literal",
        ),
        ("libvirt.url = 'x'", "libvirt.url = 'x': there is no such setting"),
        ("log.level = 'loud'", "log.level = 'loud': must be one of 'debug', 'info'"),
        ("libvirt.read_seconds = {[]: 1}", "libvirt.read_seconds = "),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_bad_file_is_refused_with_key_and_value(
    tmp_path: Path, line: str, words: str, check: bool
) -> None:
    file = tmp_path / "mc.conf"
    file.write_text(f"[global]\n{line}\n")
    done = run("--config", str(file), *["--check-config"] * check)
    assert (done.returncode, done.stdout) == (2, "")
    assert last_words(done).startswith(f"libvirt_mc: {words}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", ["missing.conf", "."])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    done = run("--check-config", "--config", path, cwd=tmp_path)
    assert done.returncode == 2
    assert repr(path) in last_words(done)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--connect="], "libvirt.uri = ''"),
        (["--connect=a b"], "libvirt.uri = 'a b'"),
        (["--log-level=loud"], "log.level = 'loud'"),
        (["--listen=1.2.3.4:99999"], "server.socket_port = 99999"),
        (["--listen= :80"], "server.socket_host = ' '"),
    ],
)
def test_option_with_an_impossible_value_is_refused_as_its_setting(
    arguments: list[str], words: str
) -> None:
    done = run("--check-config", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert last_words(done).startswith(f"libvirt_mc: {words}: must ")


@pytest.mark.parametrize(
    "text", [":80", "foo", "", ":", "foo:", "foo:http", "foo:-1", "foo:8 0", "foo:٨٠", "[::1]"]
)
def test_address_of_another_form_is_refused(text: str) -> None:
    done = run("--check-config", f"--listen={text}")
    assert (done.returncode, done.stdout) == (2, "")
    assert last_words(done).endswith(f"argument --listen: {text!r} is not HOST:PORT")


def test_relative_backup_dir_is_taken_from_the_working_directory(tmp_path: Path) -> None:
    assert run("--check-config", "--backup-dir=backups", cwd=tmp_path).returncode == 0


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nlibvirt.uri = 'test:///nonexistent'\nserver.socket_port = 1\n")
    with Daemon("--config", str(file), "--connect", TEST_URI) as daemon:
        assert daemon.announcement.endswith(f" for {TEST_URI}")
        assert daemon.status("test")["state"] == "running"


def test_file_with_every_setting_is_obeyed(tmp_path: Path) -> None:
    file = tmp_path / "mc.conf"
    file.write_text(ALL_SETTINGS)
    with Daemon("--config", str(file)) as daemon:
        assert daemon.announcement.endswith(f" for {TEST_URI}")
        assert daemon.status("test")["state"] == "on"
        assert daemon.act("test", "power_off").status == HTTPStatus.CONFLICT
        assert "shutdown --domain" in daemon.log()
        assert "--mode acpi,agent" in daemon.log()


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", r"\[::1\]"),
        ("localhost:0", "localhost"),
    ],
)
def test_only_line_on_standard_output_tells_the_url(listen: str, host: str) -> None:
    with Daemon("--connect", TEST_URI, "--listen", listen) as daemon:
        found = re.fullmatch(
            rf"libvirt_mc: serving http://{host}:(\d+) for {TEST_URI}", daemon.announcement
        )
        assert found
        with socket.create_connection((listen.rpartition(":")[0].strip("[]"), int(found[1]))):
            pass
        daemon.stop()
        assert daemon.process.stdout
        assert daemon.process.stdout.read() == b""


def test_program_runs_from_any_directory(tmp_path: Path) -> None:
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        with Daemon("--connect", TEST_URI) as daemon:
            assert daemon.status("test")["state"] == "running"
    finally:
        os.chdir(here)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_port_that_is_taken_is_told_in_a_sentence(taken: int) -> None:
    done = run("--connect", TEST_URI, f"--listen=127.0.0.1:{taken}")
    assert (done.returncode, done.stdout) == (1, "")
    assert last_words(done) == (
        f"libvirt_mc: cannot listen on 127.0.0.1:{taken}: Address already in use"
    )


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no-such-host.invalid", "a..b", "a" * 70, "a b", "*", "ü" * 70]
)
def test_address_that_cannot_be_had_is_told_in_a_sentence(host: str) -> None:
    done = run("--connect", TEST_URI, f"--listen={host}:0")
    assert (done.returncode, done.stdout) in [(1, ""), (2, "")]
    assert last_words(done).startswith("libvirt_mc: ")


@pytest.mark.parametrize("how", ["setting", "path"])
def test_missing_virsh_names_the_package(tmp_path: Path, how: str) -> None:
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nlibvirt.virsh = '/nonexistent/virsh'\n" * (how == "setting"))
    done = run(
        *("--config", str(file), "--connect", TEST_URI, "--listen=127.0.0.1:0"),
        environment={"PATH": str(tmp_path)} if how == "path" else None,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "libvirt-clients" in last_words(done)


def test_program_that_is_not_virsh_is_told_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nlibvirt.virsh = '/bin/true'\n")
    done = run("--config", str(file), "--listen=127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert last_words(done) == "libvirt_mc: /bin/true is not libvirt's virsh: it says ''"


def test_libvirt_that_is_away_at_the_start_is_served_as_503() -> None:
    with Daemon("--connect", "qemu+unix:///session?socket=/nonexistent/sock") as daemon:
        for path in ("machines", "x", "x/state_controller/status", "x/state_controller/power_on"):
            answer = daemon.get(f"/service/{path}")
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert answer.headers["retry-after"].isdigit()
            assert "/nonexistent/sock" in answer.json["detail"]


def stop(daemon: Daemon, number: signal.Signals) -> None:
    """End the daemon, which must be orderly and leave no virsh behind."""
    virshs = daemon.children()
    assert virshs
    daemon.process.send_signal(number)
    assert daemon.process.wait(PATIENCE) == 0, daemon.log()
    assert "Traceback" not in daemon.log()
    until(lambda: not any(map(is_alive, virshs)), PATIENCE, "end of every virsh")


def is_alive(pid: int) -> bool:
    return processes.state(pid) not in ("", "Z")


SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@SIGNALS
def test_signal_ends_an_idle_daemon(number: signal.Signals) -> None:
    with Daemon("--connect", TEST_URI) as daemon:
        daemon.status("test")
        stop(daemon, number)


@SIGNALS
def test_signal_ends_a_daemon_whose_clients_stay_connected(number: signal.Signals) -> None:
    with Daemon("--connect", TEST_URI) as daemon, ExitStack() as clients:
        for path in ("/service/machines", "/service/test"):
            client = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
            clients.callback(client.close)
            client.request("GET", path)
            assert client.getresponse().read()
        # One that has said nothing, and one that has said half of it.
        for text in (b"", b"GET / HTTP/1.1\r\nHost"):
            half = clients.enter_context(socket.create_connection(("127.0.0.1", daemon.port)))
            half.sendall(text)
        stop(daemon, number)


@SIGNALS
def test_signal_ends_a_daemon_that_waits_for_a_machine(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A machine in shutdown gets some seconds to arrive before it is powered on."""
    uri = hypervisor(tmp_path / "node.xml", [("leaving", "in shutdown")])
    with Daemon("--connect", uri) as daemon, ThreadPoolExecutor(1) as thread:
        future = thread.submit(daemon.act, "leaving", "power_on")
        until(lambda: "domstate" in daemon.log(), PATIENCE, "look at the machine")
        stop(daemon, number)
        error = future.exception(PATIENCE)
        assert error is not None or future.result().status == HTTPStatus.SERVICE_UNAVAILABLE


@SIGNALS
def test_signal_ends_a_daemon_whose_virsh_does_not_answer(number: signal.Signals) -> None:
    with Daemon("--connect", TEST_URI) as daemon, ThreadPoolExecutor(1) as thread:
        daemon.status("test")
        (virsh,) = daemon.children()
        processes.freeze(virsh)
        commands = len(daemon.virsh_commands())
        future = thread.submit(daemon.act, "test", "status")
        until(lambda: len(daemon.virsh_commands()) > commands, PATIENCE, "command to virsh")
        stop(daemon, number)
        assert isinstance(future.exception(PATIENCE), Exception) or future.result().status in (
            HTTPStatus.SERVICE_UNAVAILABLE,
            HTTPStatus.GATEWAY_TIMEOUT,
        )


def test_killed_daemon_leaves_no_virsh_behind() -> None:
    with Daemon("--connect", TEST_URI) as daemon:
        daemon.status("test")
        virshs = daemon.children()
        daemon.kill()
        until(lambda: not any(map(is_alive, virshs)), PATIENCE, "end of every virsh")


@SIGNALS
def test_more_signals_do_no_harm(number: signal.Signals) -> None:
    """Whenever they come while it ends."""
    with Daemon("--connect", TEST_URI) as daemon:
        daemon.status("test")
        virshs = daemon.children()

        def ended() -> bool:
            daemon.process.send_signal(number)
            return daemon.process.poll() is not None

        until(ended, PATIENCE, "end of the daemon")
        assert daemon.process.returncode == 0
        until(lambda: not any(map(is_alive, virshs)), PATIENCE, "end of every virsh")


def test_requests_of_many_clients_are_answered_while_it_runs() -> None:
    with Daemon("--connect", TEST_URI) as daemon:
        answers: list[Answer] = []
        clients = [
            threading.Thread(target=lambda: answers.append(daemon.get("/service/test")))
            for _ in range(20)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join(PATIENCE)
        assert [answer.status for answer in answers] == [HTTPStatus.OK] * 20


def test_reference_in_a_url_cannot_become_a_command() -> None:
    """Whoever may only read would power machines off with it."""
    with Daemon("--connect", TEST_URI) as daemon:
        daemon.status("test")
        answer = daemon.get("/service/%01%A3destroy%20test%20%23/state_controller/status")
        assert answer.status == HTTPStatus.NOT_FOUND
        assert daemon.status("test") == {"state": "running", "power": "on", "reason": "unknown"}
