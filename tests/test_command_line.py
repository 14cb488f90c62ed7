"""`libvirt_mc.py` as a process: its options, its exit status, and its end."""

import ast
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import pytest

from mc import __version__
from mc.users import add_user
from tests.daemon import PROGRAM, Answer, Daemon
from tests.hypervisor import hypervisor, uuid_of
from tests.lab import processes
from tests.lab.waiting import until
from tests.ports import reserved_port

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
    *arguments: str,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    python: Sequence[str] = (sys.executable,),
) -> subprocess.CompletedProcess[str]:
    """The program, which is expected to end by itself."""
    return subprocess.run(
        [*python, PROGRAM, *arguments],
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


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_no_packages(option: str) -> None:
    done = run(option, python=[sys.executable, "-S"])
    assert (done.returncode, done.stderr) == (0, "")


def test_help_shows_two_examples() -> None:
    done = run("--help")
    assert len(re.findall(r"^  libvirt_mc\.py --", done.stdout, re.M)) == 2
    assert "/var/lib/libvirt_mc/backups" in done.stdout


def test_missing_packages_are_told_in_a_sentence() -> None:
    done = run("--connect", TEST_URI, "--listen=127.0.0.1:0", python=[sys.executable, "-S"])
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"{sys.executable} lacks CherryPy, lxml, prometheus_client: " in last_words(done)


def test_package_that_lacks_something_itself_is_told_with_it(tmp_path: Path) -> None:
    (tmp_path / "lxml.py").write_text("import no_such_package\n")
    done = run("--connect", TEST_URI, environment={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert "lacks lxml (No module named 'no_such_package'): " in last_words(done)


AS_OLD = """
import runpy, sys
sys.version_info, sys.argv = (3, 10, 12, "final", 0), [sys.argv[1], "--version"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_old_python_is_told_so() -> None:
    """Anything from 3.7 on can read the program that says it."""
    ast.parse(PROGRAM.read_text(), feature_version=(3, 7))
    done = subprocess.run(
        [sys.executable, "-c", AS_OLD, PROGRAM], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.11 or newer is needed, and this is 3.10 (" in last_words(done)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("server.names = ['']", "server.names = ['']: must be a list of texts"),
        ("server.socket_port = 70000", "server.socket_port = 70000: must be between 0 and 65535"),
        ("server.socket_port = '80'", "server.socket_port = '80': must be a whole number"),
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
    assert last_words(done).startswith(f"libvirt_mc: {file}: {words}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", ["missing.conf", "."])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    done = run("--check-config", "--config", path, cwd=tmp_path)
    assert done.returncode == 2
    assert repr(path) in last_words(done)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--connect="], "--connect ''"),
        (["--connect=a b"], "--connect 'a b'"),
        (["--log-level=loud"], "--log-level 'loud'"),
        (["--listen=1.2.3.4:99999"], "--listen 99999"),
        (["--listen= :80"], "--listen ' '"),
    ],
)
def test_option_with_an_impossible_value_is_refused_by_its_name(
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
    done = run("--check-config", "--connect", TEST_URI, "--backup-dir=backups", cwd=tmp_path)
    assert f"ok: --backup-dir: {tmp_path / 'backups'} " in done.stdout


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
        f"libvirt_mc: --listen: cannot listen on 127.0.0.1:{taken}: Address already in use: "
        "another program is there, or this one already"
    )


def test_address_in_the_file_is_named_with_the_file(tmp_path: Path, taken: int) -> None:
    file = tmp_path / "mc.conf"
    file.write_text(f"[global]\nserver.socket_port = {taken}\n")
    done = run("--connect", TEST_URI, "--config", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert last_words(done).startswith(f"libvirt_mc: {file}: server.socket_port: cannot listen on ")


def test_standard_output_that_takes_nothing_does_not_end_it() -> None:
    with reserved_port() as port, Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, PROGRAM, "--connect", TEST_URI, f"--listen=127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
        )
        with process:
            assert process.stderr
            lines = iter(process.stderr.readline, b"")
            assert any(b"standard output does not take: No space left" in line for line in lines)
            with socket.create_connection(("127.0.0.1", port)):
                process.terminate()
            process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no-such-host.invalid", "a..b", "a" * 70, "a b", "*", "ü" * 70]
)
def test_address_that_cannot_be_had_is_told_in_a_sentence(host: str) -> None:
    done = run("--connect", TEST_URI, f"--listen={host}:0")
    assert (done.returncode, done.stdout) in [(1, ""), (2, "")]
    assert last_words(done).startswith("libvirt_mc: --listen")


INTERNAL_WORDS = re.compile(r"\[Errno|_ssl\.c|<string>|codec|Error\b|Traceback|<Signals")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=."], "--config '.': Is a directory"),
        (["--config=latin-1.conf"], "--config 'latin-1.conf': line 1 is not UTF-8"),
        (["--users=nope"], "--users: HERE/nope cannot be used: No such file or directory"),
        (["--users=nope/x"], "--users: HERE/nope/x cannot be used: No such file or directory"),
        (["--users=."], "--users: HERE cannot be used: Is a directory"),
        (["--users=u", "--listen=192.0.2.1:0"], "--listen: cannot listen on 192.0.2.1:0: "),
        (["--users=u", "--listen=a..b:0"], "--listen: cannot listen on a..b:0: that is no host"),
        (["--config=virsh.conf"], "virsh.conf: libvirt.virsh: /bin/false does not run: exit stat"),
        (["--config=killed.conf"], "killed.conf: libvirt.virsh: HERE/killed does not run: ended b"),
        (["--config=no.conf"], "no.conf: libvirt.virsh: /etc does not run: Permission denied"),
        (["--add-user=:", "--users=u"], "--add-user: no user can be called ':'"),
    ],
)
def test_every_error_names_its_option_or_setting_and_no_word_of_pythons(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "latin-1.conf").write_bytes(b"# \xfc\n")
    add_user(tmp_path / "u", "admin", "secret")
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(0o755)
    for name, program in (("virsh", "/bin/false"), ("killed", killed), ("no", "/etc")):
        (tmp_path / f"{name}.conf").write_text(f"[global]\nlibvirt.virsh = '{program}'\n")
    done = run("--connect", TEST_URI, "--listen=127.0.0.1:0", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) in [(1, ""), (2, "")]
    said = last_words(done)
    assert said.startswith(f"libvirt_mc: {words.replace('HERE', str(tmp_path))}")
    assert not INTERNAL_WORDS.search(said)


def test_working_directory_that_is_gone_is_told_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'cd "$1" && rmdir "$1" && exec "$2" "$3" --users u',
         "sh", tmp_path, sys.executable, PROGRAM],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert last_words(done).startswith("libvirt_mc: --users 'u': where is that? ")


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
    said = f"libvirt_mc: {file}: libvirt.virsh: /bin/true is not libvirt's virsh: it says ''"
    assert last_words(done) == said


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
        until(lambda: uuid_of(0) in daemon.log(), PATIENCE, "look at the machine")
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
