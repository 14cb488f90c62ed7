"""The daemon as process 1 of a PID namespace, as in a container without an init of its own."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mc import __version__
from mc.users import Users, ha1
from tests.daemon import PROGRAM, Daemon
from tests.lab import processes, until
from tests.test_add_user import read_until

PATIENCE = 60
# The processes in it have a /proc of their own, and end with the one that has started them.
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
if os.geteuid() != 0:
    NAMESPACE[1:1] = ["--user", "--map-root-user"]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def children(pid: int) -> list[int]:
    """Zombies are among them."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def only_child(pid: int) -> int:
    (child,) = until(lambda: children(pid), PATIENCE, f"child of process {pid}")
    return child


def state_of(stat: Path) -> str:
    """As `processes.state`, by a /proc that may be another."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def as_first(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python as process 1."""
    return subprocess.run(
        [*NAMESPACE, sys.executable, *command],
        cwd=PROGRAM.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )


@contextmanager
def contained(folder: Path, *arguments: str) -> Iterator[tuple[Daemon, int]]:
    """A daemon as process 1, and what the id of that is outside of the namespace."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {" ".join(NAMESPACE)} {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Daemon(*arguments, python=str(python)) as daemon:
        first = only_child(daemon.pid)
        yield daemon, first
        # unshare itself takes no signal.
        if daemon.process.poll() is None:
            os.kill(first, signal.SIGTERM)


def test_what_a_killed_virsh_has_started_is_no_zombie(tmp_path: Path) -> None:
    """As it starts ssh for `qemu+ssh:`; `qemu+ext:` starts any command."""
    script, notes = tmp_path / "ssh", tmp_path / "notes"
    notes.mkdir()
    script.write_text(f"#!/bin/sh\n: > {notes}/$$\nexec sleep 600\n")
    script.chmod(0o755)
    config = tmp_path / "mc.conf"
    config.write_text("[global]\nlibvirt.read_seconds = 0.3\n")
    uri = f"qemu+ext:///session?command={script}"
    with contained(tmp_path, "--config", str(config), "--connect", uri) as (daemon, first):

        def states() -> list[str]:
            """One for each that was started; empty for those that are gone altogether."""
            assert daemon.get("/service/machines").status in (503, 504)
            return [state_of(seen / note.name / "stat") for note in notes.iterdir()]

        seen = Path(f"/proc/{first}/root/proc")
        assert state_of(seen / "1/stat")
        ended = {"", "Z"}
        # Those of the streams of events wait for longer.
        until(
            states, PATIENCE, "five that end", lambda them: sum(map(ended.__contains__, them)) >= 5
        )
        until(states, PATIENCE, "end of zombies", lambda them: "Z" not in them)
        assert daemon.process.poll() is None


@SIGNALS
def test_signal_ends_all(tmp_path: Path, number: signal.Signals) -> None:
    with contained(tmp_path, "--connect", "test:///default") as (daemon, first):
        assert daemon.get("/service/machines").json[0]["name"] == "test"
        child = only_child(first)
        its = children(child)
        os.kill(first, number)
        assert daemon.process.wait(PATIENCE) == 0
        assert not any(map(processes.state, (first, child, *its)))
        assert "Traceback" not in daemon.log()


def test_daemon_that_is_killed_is_told_as_a_shell_would(tmp_path: Path) -> None:
    with contained(tmp_path, "--connect", "test:///default") as (daemon, first):
        os.kill(only_child(first), signal.SIGKILL)
        assert daemon.process.wait(PATIENCE) == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--version"], 0, rf"libvirt_mc {re.escape(__version__)}\n"),
        (["--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["--connect=test:///nonexistent", "--check-config"], 1, "failed: .*/nonexistent"),
        (["--users=/nonexistent/users", "--connect=test:///default"], 1, "/nonexistent/users"),
    ],
)
def test_exit_status_comes_through(arguments: list[str], status: int, said: str) -> None:
    done = as_first(PROGRAM, *arguments)
    assert done.returncode == status, done
    assert re.search(said, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr


EARLY = """
import os, signal, sys, time
from mc.init import in_child_of_init

fork = os.fork

def told_before():
    os.kill(1, signal.SIGTERM)
    return fork()

os.fork = told_before
sys.exit(in_child_of_init(lambda: time.sleep(600)))
"""


def test_signal_that_comes_before_the_child_is_passed_on() -> None:
    assert as_first("-c", EARLY).returncode == 128 + signal.SIGTERM


IGNORED = """
import signal, sys
from mc.init import in_child_of_init

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.exit(in_child_of_init(lambda: 7))
"""


def test_exit_status_is_known_where_nobody_wanted_to_know_any() -> None:
    assert as_first("-c", IGNORED).returncode == 7


ORPHANS = """
import os, sys
from mc.init import in_child_of_init

def main():
    "Leave five orphans that end."
    sys.stdin.readline()
    for _ in range(5):
        if os.fork() == 0:
            os.fork()
            os._exit(0)
        os.wait()
    sys.stdin.readline()
    return 0

sys.exit(in_child_of_init(main))
"""


def test_many_that_end_at_once_are_all_reaped() -> None:
    """The kernel keeps one signal of a kind, however many are sent meanwhile."""
    command = [*NAMESPACE, sys.executable, "-c", ORPHANS]
    with subprocess.Popen(command, cwd=PROGRAM.parent, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin
        first = only_child(process.pid)
        child = only_child(first)
        processes.freeze(first)
        process.stdin.write(b"\n")
        until(
            lambda: list(map(processes.state, children(first))).count("Z"),
            PATIENCE,
            "five zombies",
            lambda zombies: zombies == 5,
        )
        processes.thaw(first)
        until(lambda: children(first), PATIENCE, "end of the zombies", lambda left: left == [child])
        process.stdin.write(b"\n")
        assert process.wait(PATIENCE) == 0


@contextmanager
def at_a_terminal(*command: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Python as process 1 with a terminal that is its own, and our end of that."""
    ours, theirs = pty.openpty()
    leader = ["setsid", "--ctty", "--wait", *NAMESPACE, sys.executable, *command]
    process = subprocess.Popen(
        leader, cwd=PROGRAM.parent, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_password_is_asked_for_at_the_terminal(tmp_path: Path) -> None:
    users = tmp_path / "users"
    command = (PROGRAM, "--add-user", "admin", "--users", users)
    with at_a_terminal(*command) as (process, terminal):
        for question in (b"Password: ", b"Again: "):
            read_until(terminal, question)
            os.write(terminal, b"secret\n")
        assert process.wait(PATIENCE) == 0
    assert Users(users).ha1("admin") == ha1("admin", "secret")


COUNT = """
import signal, sys
from mc.init import in_child_of_init

def main():
    counted = []

    def interrupted(*_):
        counted.append(1)
        print("counted.", flush=True)

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(len(counted)))
    print("ready.", flush=True)
    while True:
        signal.pause()

sys.exit(in_child_of_init(main))
"""


def test_interrupt_at_the_terminal_comes_once() -> None:
    """To the child, as to all that run there; and not once more by process 1."""
    with at_a_terminal("-c", COUNT) as (process, terminal):
        read_until(terminal, b"ready.\r\n")
        os.write(terminal, b"\3")
        read_until(terminal, b"counted.\r\n")
        # It is passed on after the interrupt, if that is: the lower number comes first.
        os.kill(only_child(process.pid), signal.SIGUSR1)
        assert process.wait(PATIENCE) == 1


HANG_UP = """
import signal, sys
from mc.init import in_child_of_init

def main():
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(7))
    print("ready", flush=True)
    while True:
        signal.pause()

sys.exit(in_child_of_init(main))
"""


def test_terminal_that_is_gone_is_told_to_the_child() -> None:
    """The kernel tells it to the one that leads the session: in a container that is process 1."""
    ours, theirs = pty.openpty()
    command = [*NAMESPACE, "setsid", "--ctty", sys.executable, "-c", HANG_UP]
    with subprocess.Popen(
        command, cwd=PROGRAM.parent, stdin=theirs, stdout=subprocess.PIPE
    ) as process:
        os.close(theirs)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        os.close(ours)
        try:
            assert process.wait(PATIENCE) == 7
        finally:
            process.kill()
