"""Accounts on the command line, and starts that are refused or warned about for want of them."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mc.users import Users, add_user, ha1
from tests.daemon import PROGRAM, Daemon
from tests.lab import processes, until

PATIENCE = 60


def run(*arguments: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        input=said, capture_output=True, timeout=PATIENCE, check=False, text=True,
    )  # fmt: skip


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.mark.parametrize("said", ["secret\n", "secret", "secret\r\n", "secret\nmore\n"])
def test_password_is_read_from_standard_input(file: Path, said: str) -> None:
    done = run("--add-user", "admin", "--users", file, said=said)
    assert (done.returncode, done.stderr) == (0, "")
    assert Users(file).ha1("admin") == ha1("admin", "secret")
    assert "secret" not in done.stdout


def test_password_that_is_no_text_or_cannot_be_given_is_refused(file: Path) -> None:
    command = [sys.executable, PROGRAM, "--add-user", "admin", "--users", file]
    for redirection, words in (
        ("<&-", "there is no standard input"),
        (f"< {file}.bytes", "the password is not text in utf-8"),
    ):
        Path(f"{file}.bytes").write_bytes(b"\xff\n")
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *map(str, command)],
            capture_output=True, timeout=PATIENCE, check=False, text=True,
            env=os.environ | {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert last_words(done).startswith(f"libvirt_mc: --add-user: {words}")
    assert not file.exists()


def test_name_of_a_file_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    """Also at a terminal that has not all characters."""
    file = tmp_path / "ü\udcff\x1b[31m"
    done = subprocess.run(
        [sys.executable, PROGRAM, "--add-user", "admin", "--users", file],
        input="secret\n", capture_output=True, timeout=PATIENCE, check=False, text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xfc\\udcff\\x1b[31m has an account for admin" in done.stdout


@contextmanager
def asked(file: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The program at a terminal, and the other end of that, when it has asked for a password."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "--add-user", "admin", "--users", file],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        read_until(ours, b"Password: ")
        # A signal that comes between Python's question and its reading waits for the next key.
        until(lambda: processes.state(process.pid) == "S", PATIENCE, "reading")
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, end: bytes) -> bytes:
    shown = b""
    while not shown.endswith(end):
        shown += os.read(terminal, 1 << 10)
    return shown


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-D"])
def test_question_that_is_broken_off_changes_nothing(file: Path, how: str) -> None:
    with asked(file) as (process, terminal):
        if how == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            os.write(terminal, b"\x04")
        shown = read_until(terminal, b"no account was changed\r\n")
        assert process.wait(PATIENCE) == 1
    assert b"Traceback" not in shown
    assert not file.exists()


@pytest.mark.parametrize(("again", "status"), [("secret", 0), ("secrte", 1)])
def test_password_is_asked_for_twice_at_a_terminal(file: Path, again: str, status: int) -> None:
    with asked(file) as (process, terminal):
        os.write(terminal, b"secret\n")
        shown = read_until(terminal, b"Again: ")
        os.write(terminal, again.encode() + b"\n")
        assert process.wait(PATIENCE) == status
    assert b"secret" not in shown
    assert file.exists() == (status == 0)


def test_users_file_may_be_named_by_the_settings(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mc.conf").write_text(f"[global]\nauth.users_file = {str(file)!r}\n")
    assert run("--config", tmp_path / "mc.conf", "--add-user", "a", said="b\n").returncode == 0
    assert Users(file).names() == {"a"}


def test_account_needs_a_file_a_name_and_a_password(file: Path) -> None:
    done = run("--add-user", "admin", said="secret\n")
    assert (done.returncode, "--users FILE" in last_words(done)) == (2, True)
    for name, password in (("a:b", "secret\n"), ("", "secret\n"), ("admin", "\n"), ("admin", "")):
        done = run("--add-user", name, "--users", file, said=password)
        assert done.returncode == 1
        assert last_words(done).startswith("libvirt_mc: ")
    assert not file.exists()
    done = run("--add-user", "admin", "--users", file.parent / "nowhere/users", said="secret\n")
    words = f"libvirt_mc: --users: {file.parent}/nowhere/users cannot be written: No such file"
    assert (done.returncode, last_words(done).startswith(words)) == (1, True)


@pytest.mark.parametrize("host", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_beyond_the_loopback_nothing_is_served_without_users(host: str) -> None:
    done = run("--listen", host, "--connect", "test:///default")
    assert done.returncode == 2
    assert "--add-user NAME --users FILE" in last_words(done)
    assert "auth.anonymous = True" in last_words(done)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_users_file_that_others_can_read_is_refused_at_the_start(file: Path, mode: int) -> None:
    add_user(file, "admin", "secret")
    file.chmod(mode)
    done = run("--listen", "127.0.0.1:0", "--connect", "test:///default", "--users", file)
    assert done.returncode == 1
    assert f"chmod 600 {file}" in last_words(done)


def test_users_file_that_is_not_there_is_refused_at_the_start(file: Path) -> None:
    done = run("--listen", "127.0.0.1:0", "--connect", "test:///default", "--users", file)
    assert (done.returncode, str(file) in last_words(done)) == (1, True)


def test_everybody_is_let_in_by_an_explicit_word_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "mc.conf").write_text("[global]\nauth.anonymous = True\n")
    with Daemon("--connect", "test:///default", "--config", str(tmp_path / "mc.conf")) as daemon:
        assert daemon.get("/service/test").status == 200
        assert "WARNING mc.daemon: auth.anonymous" in daemon.log()


def test_reader_who_is_no_user_is_warned_about(file: Path, tmp_path: Path) -> None:
    add_user(file, "admin", "secret")
    (tmp_path / "mc.conf").write_text('[global]\nauth.readers = ["monitor"]\n')
    arguments = ("--config", str(tmp_path / "mc.conf"), "--users", str(file))
    with Daemon("--connect", "test:///default", *arguments) as daemon:
        assert "there is no user monitor" in daemon.log()
