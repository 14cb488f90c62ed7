"""One live virsh: framing, errors, deadlines, and its end, on the real virsh."""

import fcntl
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mc.errors import ConnectionLost, NoAnswer, Refused, Unreachable
from mc.virsh.session import Session, message
from tests.hypervisor import hypervisor, uuid_of
from tests.lab import processes
from tests.lab.waiting import until

URI = "test:///default"
RUNNING = b"running\n"


def soon() -> float:
    return time.monotonic() + 30


def open_session(uri: str = URI, deadline: float | None = None) -> Session:
    session = Session("virsh", uri)
    try:
        session.greet(deadline or soon())
    except BaseException:
        session.close()
        raise
    return session


@pytest.fixture
def session() -> Iterator[Session]:
    with closing(open_session()) as session:
        yield session


def run(session: Session, *arguments: str) -> bytes:
    return session.run(arguments, soon())


def is_in_step(session: Session) -> bool:
    return run(session, "echo", "next") == b"next" and session.usable and session.fit()


def children() -> set[int]:
    """Ids of the processes that this one has started and not yet reaped."""
    files = Path("/proc/self/task").glob("*/children")
    return {int(pid) for file in files for pid in file.read_text().split()}


def is_dead(pid: int) -> bool:
    return processes.state(pid) in ("", "Z")


def kill(session: Session) -> None:
    """Kill virsh and wait until it is dead, all its threads and all, but not reaped."""
    os.kill(session.pid, signal.SIGKILL)
    os.waitid(os.P_PID, session.pid, os.WEXITED | os.WNOWAIT)


def unread(session: Session) -> int:
    """How many bytes wait in virsh's standard input."""
    with Path(f"/proc/{session.pid}/fd/0").open("rb") as pipe:
        answer = fcntl.ioctl(pipe, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def begin(thread: ThreadPoolExecutor, session: Session, *arguments: str) -> Future[bytes]:
    """A command that a frozen virsh has not read yet, waiting in a thread."""
    processes.freeze(session.pid)
    future = thread.submit(run, session, *arguments)
    until(lambda: unread(session), 30, "command in the pipe")
    return future


@pytest.mark.parametrize(
    "text",
    [
        "virsh # ",
        "virsh # echo >''",
        "<000000",
        ">000000",
        "echo <''000000;uri",
        "error: no error",
        "",
        " ",
        "x" * 20_000,
    ],
)
def test_output_that_looks_like_the_frame_is_output(session: Session, text: str) -> None:
    assert run(session, "echo", "--string", text) == text.encode()
    assert is_in_step(session)


@pytest.mark.parametrize(
    "name",
    [
        "virsh # ",
        "error: x",
        "error: Disconnected from qemu:///system due to end of file",
        "error: Failed to reconnect to the hypervisor",
        "error: Reconnected to the hypervisor",
    ],
)
def test_name_in_an_error_is_no_message_of_virsh(session: Session, name: str) -> None:
    with pytest.raises(Refused) as caught:
        run(session, "domstate", "--domain", name)
    assert caught.value.words == f"failed to get domain '{name}'"
    assert is_in_step(session)


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ("internal error: client socket is closed", True),
        ("Cannot recv data: Connection reset by peer", True),
        ("Cannot write data: Broken pipe", True),
        ("End of file while reading data: Input/output error", True),
        ("no valid connection", True),
        ("Domain is already active", False),
        ("failed to get domain 'no valid connection'", False),
    ],
)
def test_loss_is_known_before_virsh_notices_it(session: Session, words: str, lost: bool) -> None:
    with pytest.raises(ConnectionLost if lost else Refused, match=re.escape(words)):
        run(session, "echo", "--err", words)
    assert session.usable is not lost


def test_long_output_is_complete(tmp_path: Path) -> None:
    uri = hypervisor(tmp_path / "node.xml", [("long", "running")])
    text = "".join(f"{number} virsh # error: x ü\u2028\n" for number in range(10_000))
    file = tmp_path / "node.xml"
    file.write_text(
        file.read_text().replace("<memory", f"<description>{text}</description><memory")
    )
    dumpxml = ["dumpxml", "--domain", uuid_of(0)]
    typed = subprocess.run(["virsh", "-q", "-c", uri, *dumpxml], capture_output=True, check=True)
    with closing(open_session(uri)) as session:
        assert run(session, *dumpxml) == typed.stdout
        assert is_in_step(session)
    assert text.encode() in typed.stdout


def test_long_error_is_complete(session: Session) -> None:
    name = "x" * 20_000
    with pytest.raises(Refused) as caught:
        run(session, "domstate", "--domain", name)
    assert caught.value.words == f"failed to get domain '{name}'"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "unknown command: 'nonsense'"),
        (["domstate", "--nonsense"], "command 'domstate' doesn't support option --nonsense"),
        (["domstate"], "command 'domstate' requires <domain> option"),
        (["domstate", "test", "more"], "unexpected data 'more'"),
    ],
)
def test_syntax_error_is_refused_in_virshs_words(
    session: Session, arguments: list[str], words: str
) -> None:
    with pytest.raises(Refused) as caught:
        run(session, *arguments)
    assert (caught.value.words, caught.value.command) == (words, " ".join(arguments))
    assert is_in_step(session)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("domstate nobody", "failed to get domain 'nobody'"),
        ("start test", "Domain is already active"),
        (
            "resume test",
            "Failed to resume domain 'test': internal error: domain 'test' not paused",
        ),
        (
            "define /nonexistent",
            "Failed to open file '/nonexistent': No such file or directory",
        ),
    ],
)
def test_refused_command_keeps_libvirts_words(session: Session, command: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        run(session, *command.split())
    assert (caught.value.words, caught.value.command) == (words, command)
    assert str(caught.value) == words
    assert is_in_step(session)


def answer_to(session: Session, *arguments: str) -> bytes | str:
    try:
        return run(session, *arguments)
    except Refused as error:
        return error.words


def mixed_commands(seed: int) -> list[tuple[tuple[str, ...], bytes | str]]:
    """Commands of every outcome in a random order, with the answer of each."""
    chosen = random.Random(seed)
    commands: list[tuple[tuple[str, ...], bytes | str]] = []
    for number in range(300):
        name = f"{seed}.{number}"
        kinds: list[tuple[tuple[str, ...], bytes | str]] = [
            (("echo", name), name.encode()),
            (("echo", name * 500), (name * 500).encode()),
            (("echo",), b""),
            (("domstate", "test"), RUNNING),
            (("domstate", name), f"failed to get domain '{name}'"),
            ((name,), f"unknown command: '{name}'"),
            (("domstate", f"--{name}"), f"command 'domstate' doesn't support option --{name}"),
        ]
        commands.append(chosen.choice(kinds))
    return commands


def test_many_commands_of_several_sessions_get_their_own_answers() -> None:
    def work(seed: int) -> list[bytes | str]:
        with closing(open_session()) as session:
            return [answer_to(session, *arguments) for arguments, _ in mixed_commands(seed)]

    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(work, range(3)))
    assert answers == [[answer for _, answer in mixed_commands(seed)] for seed in range(3)]


def test_command_too_long_for_a_pipe_is_not_sent(session: Session) -> None:
    with pytest.raises(ValueError, match="a virsh command of 40005 bytes"):
        run(session, "echo", "x" * 40_000)
    assert is_in_step(session)


def test_session_keeps_its_hypervisor(session: Session) -> None:
    run(session, "destroy", "test")
    assert run(session, "domstate", "test") == b"shut off\n"


def test_idle_session_is_fit(session: Session) -> None:
    assert session.fit()
    assert session.fit()


def test_session_whose_virsh_was_killed_is_not_fit(session: Session) -> None:
    kill(session)
    assert not session.fit()
    assert not session.usable


def test_command_to_a_killed_virsh_is_a_lost_connection(session: Session) -> None:
    kill(session)
    with pytest.raises(ConnectionLost, match="lost during 'echo x'"):
        run(session, "echo", "x")
    assert not session.usable


def test_virsh_killed_during_a_command_is_a_lost_connection(
    session: Session, thread: ThreadPoolExecutor
) -> None:
    future = begin(thread, session, "domstate", "test")
    kill(session)
    with pytest.raises(ConnectionLost, match="virsh has ended") as caught:
        future.result(30)
    assert caught.value.command == "domstate test"
    assert not session.usable


def test_virsh_that_ends_by_itself_is_a_lost_connection(session: Session) -> None:
    with pytest.raises(ConnectionLost):
        run(session, "quit")
    assert not session.fit()


def test_virsh_killed_right_after_its_answer_is_no_unforeseen_error(session: Session) -> None:
    """Its messages are read once more after the answer; there may be none any more."""
    session.begin(["echo", "x"])
    until(session.receive, 30, "answer")
    kill(session)
    assert session.result() == b"x"
    assert not session.fit()


def test_silent_virsh_meets_the_deadline(session: Session) -> None:
    processes.freeze(session.pid)
    with pytest.raises(NoAnswer, match="did not answer 'echo x' in time"):
        session.run(["echo", "x"], time.monotonic() + 0.1)
    assert not session.usable
    assert not session.fit()


def received(session: Session) -> bytes:
    """What was begun, read as whoever polls many sessions does."""
    poll = select.poll()
    for descriptor in session.descriptors:
        poll.register(descriptor, select.POLLIN)
    while not session.receive():
        assert poll.poll(30_000), "virsh is silent"
    return session.result()


LIST = ("list", "--all", "--name")
HOST = ("hostname",)


def test_several_commands_are_answered_as_one(session: Session) -> None:
    session.begin(["domstate", "test"], LIST, ["echo", "a b"])
    assert received(session) == RUNNING + b"test\na b"
    assert is_in_step(session)


def test_output_that_comes_in_many_parts_is_whole(tmp_path: Path) -> None:
    uri = hypervisor(tmp_path / "node.xml", [(f"{n} {'x' * 200}", "running") for n in range(1000)])
    with closing(open_session(uri)) as session:
        session.begin(["list", "--all", "--name"], ["domstats", "--state"])
        out = received(session)
    assert (out.count(b" xxx"), out.count(b"Domain: '")) == (2000, 1000)


def test_receiving_never_waits(session: Session) -> None:
    processes.freeze(session.pid)
    session.begin(HOST)
    assert [session.receive() for _ in range(3)] == [False] * 3
    processes.thaw(session.pid)
    assert received(session) != b""
    assert is_in_step(session)


def test_refused_command_among_several_is_told_when_all_are_done(session: Session) -> None:
    session.begin(["domstate", "nobody"], ["destroy", "test"])
    with pytest.raises(Refused) as caught:
        received(session)
    assert (caught.value.words, caught.value.command) == (
        "failed to get domain 'nobody'",
        "domstate nobody; destroy test",
    )
    assert run(session, "domstate", "test") == b"shut off\n"


def test_syntax_error_among_several_has_none_done(session: Session) -> None:
    session.begin(["destroy", "test"], ["nonsense", "more"])
    with pytest.raises(Refused, match="unknown command: 'nonsense'"):
        received(session)
    assert is_in_step(session)


def test_result_before_all_has_come_is_no_answer(session: Session) -> None:
    processes.freeze(session.pid)
    session.begin(HOST, LIST)
    with pytest.raises(NoAnswer, match="did not answer 'hostname; list --all --name' in time"):
        session.result()
    assert not session.usable


def test_virsh_that_was_killed_ends_the_receiving(session: Session) -> None:
    kill(session)
    session.begin(HOST)
    assert session.receive()
    with pytest.raises(ConnectionLost, match="virsh has ended"):
        session.result()


def test_first_command_waits_for_the_connection() -> None:
    with closing(Session("virsh", URI)) as session:
        session.begin(["domstate", "test"])
        assert not session.connected
        assert received(session) == RUNNING
        assert session.connected


def test_connection_that_fails_shows_with_the_first_command() -> None:
    with closing(Session("virsh", "qemu+unix:///session?socket=/nonexistent/sock")) as session:
        session.begin(["hostname"])
        with pytest.raises(Unreachable, match="Failed to connect socket to '/nonexistent/sock'"):
            received(session)
        assert not session.connected
        assert not session.usable


def test_first_command_that_is_refused_shows_a_connection() -> None:
    with closing(Session("virsh", URI)) as session:
        session.begin(["domstate", "nobody"])
        with pytest.raises(Refused):
            received(session)
        assert session.connected
        assert is_in_step(session)


@pytest.fixture
def noted(tmp_path: Path) -> tuple[str, Path]:
    """A virsh that writes its exit status into a file, unless it and its group are killed."""
    script, note = tmp_path / "virsh", tmp_path / "status"
    script.write_text(f'#!/bin/sh\nvirsh "$@"\necho $? > {note}\n')
    script.chmod(0o755)
    return str(script), note


def test_idle_virsh_ends_in_good_order(noted: tuple[str, Path]) -> None:
    """So that it takes leave of libvirt, and of the ssh that it has started."""
    binary, note = noted
    session = Session(binary, URI)
    session.greet(soon())
    session.close()
    assert note.read_text() == "0\n"
    assert session.pid not in children()


def test_busy_virsh_is_killed(noted: tuple[str, Path]) -> None:
    binary, note = noted
    session = Session(binary, URI)
    session.greet(soon())
    session.begin(HOST)
    session.close()
    assert not note.exists()
    assert session.pid not in children()


def test_virsh_that_never_connects_is_killed(mute: str) -> None:
    session = Session("virsh", mute)
    with pytest.raises(NoAnswer):
        session.greet(time.monotonic() + 0.1)
    session.end()
    until(lambda: is_dead(session.pid), 30, "end of virsh")
    session.close()
    assert session.pid not in children()


def test_many_are_told_to_end_before_one_is_waited_for() -> None:
    sessions = [open_session() for _ in range(8)]
    for session in sessions:
        session.end()
    until(lambda: all(is_dead(session.pid) for session in sessions), 30, "end of all")
    for session in sessions:
        session.close()
    assert not {session.pid for session in sessions} & children()


def test_what_outlives_virsh_ends_with_it(tmp_path: Path) -> None:
    """An ssh, say, that virsh did not end."""
    script, note = tmp_path / "virsh", tmp_path / "pid"
    script.write_text(f'#!/bin/sh\nsleep 600 & echo $! > {note}\nexec virsh "$@"\n')
    script.chmod(0o755)
    session = Session(str(script), URI)
    session.greet(soon())
    session.close()
    until(lambda: is_dead(int(note.read_text())), 30, "end of the other process")


def test_frozen_virsh_is_reaped_by_close() -> None:
    session = open_session()
    processes.freeze(session.pid)
    session.close()
    assert processes.state(session.pid) == ""


def test_close_leaves_no_zombie() -> None:
    session = open_session()
    session.close()
    assert processes.state(session.pid) == ""
    assert session.pid not in children()


def test_close_reaps_a_virsh_that_was_killed() -> None:
    session = open_session()
    kill(session)
    session.close()
    assert processes.state(session.pid) == ""


def test_close_is_harmless_twice() -> None:
    session = open_session()
    session.close()
    session.close()
    assert not session.usable


def test_kill_is_harmless_after_close() -> None:
    session = open_session()
    session.close()
    session.kill()


def test_kill_ends_a_command_of_another_thread(
    session: Session, thread: ThreadPoolExecutor
) -> None:
    future = begin(thread, session, "domstate", "test")
    session.kill()
    with pytest.raises(ConnectionLost):
        future.result(30)


def test_virsh_has_no_terminal_and_a_process_group_of_its_own(session: Session) -> None:
    assert os.getsid(session.pid) == os.getpgid(session.pid) == session.pid


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "qemu+unix:///session?socket=/nonexistent/sock",
            "failed to connect to the hypervisor: "
            "Failed to connect socket to '/nonexistent/sock': No such file or directory",
        ),
        (
            "test:///nonexistent",
            "failed to connect to the hypervisor: "
            "XML error: failed to parse xml document '/nonexistent'",
        ),
    ],
)
def test_uri_that_leads_nowhere_is_unreachable_in_libvirts_words(uri: str, words: str) -> None:
    before = children()
    with pytest.raises(Unreachable) as caught:
        open_session(uri)
    assert str(caught.value) == words
    assert children() == before


def test_words_of_a_virsh_that_ended_before_it_was_asked_are_not_lost() -> None:
    """As happens on a busy machine."""
    with closing(Session("virsh", "qemu+unix:///session?socket=/nonexistent/sock")) as session:
        os.waitid(os.P_PID, session.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Unreachable, match="Failed to connect socket to '/nonexistent/sock'"):
            session.greet(soon())


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[str]:
    """The URI of a socket that takes connections and never says anything."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        yield f"qemu+unix:///session?socket={tmp_path}/sock"


def test_libvirt_that_hangs_when_called_meets_the_deadline(mute: str) -> None:
    before = children()
    with pytest.raises(NoAnswer):
        open_session(mute, time.monotonic() + 0.3)
    assert children() == before


def test_what_virsh_has_started_ends_with_it(tmp_path: Path) -> None:
    """As it starts ssh for `qemu+ssh:`; `qemu+ext:` starts any command."""
    script, note = tmp_path / "ssh", tmp_path / "pid"
    script.write_text(f"#!/bin/sh\necho $$ > {note}.new\nmv {note}.new {note}\nexec sleep 600\n")
    script.chmod(0o755)
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(
            open_session, f"qemu+ext:///session?command={script}", time.monotonic() + 2
        )
        until(note.exists, 30, "start of the command")
        with pytest.raises(NoAnswer):
            future.result(30)
    until(lambda: is_dead(int(note.read_text())), 30, "end of the command")


def test_virsh_that_does_not_exist_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="/nonexistent/virsh"):
        Session("/nonexistent/virsh", URI)


TEXT = "a e .ü" * 20
DISTURBANCES = {
    "VIRSH_DEBUG": "0",
    "VIRSH_LOG_FILE": "{folder}/log",
    "VIRSH_DEFAULT_CONNECT_URI": "qemu:///system",
    "VIRSH_HISTSIZE": "100",
    "LIBVIRT_DEBUG": "1",
    "LIBVIRT_LOG_OUTPUTS": "1:stderr",
    "LIBVIRT_DEFAULT_URI": "qemu:///system",
    "LC_ALL": "de_DE.UTF-8",
    "LANG": "de_DE.UTF-8",
    "LANGUAGE": "de",
    "INPUTRC": "{folder}/inputrc",
    "HOME": "{folder}",
    "XDG_CACHE_HOME": "{folder}/cache",
    "TERM": "xterm-256color",
    "COLUMNS": "10",
    "LINES": "2",
}


@pytest.fixture
def disturbed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session that was started with one variable set in the environment."""
    variable: str = request.param
    keys = '"a": "b"\n"e": kill-whole-line\n'
    (tmp_path / "inputrc").write_text(keys)
    (tmp_path / ".inputrc").write_text(keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, DISTURBANCES[variable].format(folder=tmp_path))
        with closing(open_session()) as session:
            yield session


@pytest.mark.parametrize("disturbed", DISTURBANCES, indirect=True)
def test_environment_of_the_daemon_changes_no_answer(disturbed: Session, tmp_path: Path) -> None:
    assert run(disturbed, "echo", "--string", TEXT) == TEXT.encode()
    assert run(disturbed, "uri") == f"{URI}\n".encode()
    assert run(disturbed, "domstate", "test") == RUNNING
    with pytest.raises(Refused, match=r"^failed to get domain 'ü'$"):
        run(disturbed, "domstate", "ü")
    assert {path.name for path in tmp_path.iterdir()} == {"inputrc", ".inputrc"}


def test_virsh_speaks_english(session: Session) -> None:
    environment = Path(f"/proc/{session.pid}/environ").read_bytes().split(b"\0")
    assert b"LC_ALL=C" in environment


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_history_of_the_administrator_is_left_alone(tmp_path: Path, variable: str) -> None:
    """Also when virsh ends in good order, because the daemon that drove it was killed."""
    cache = tmp_path / ".cache" if variable == "HOME" else tmp_path
    history = cache / "libvirt/virsh/history"
    history.parent.mkdir(parents=True)
    history.write_text("list --all\ndominfo web\n")
    program = (
        "import os, time\n"
        "from mc.virsh.session import Session\n"
        f"session = Session('virsh', {URI!r})\n"
        "session.greet(time.monotonic() + 30)\n"
        "session.run(['domstate', 'test'], time.monotonic() + 30)\n"
        "print(session.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    environment = {name: os.environ[name] for name in os.environ if name != "XDG_CACHE_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {variable: str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    until(lambda: is_dead(int(done.stdout)), 30, "end of virsh")
    assert history.read_text() == "list --all\ndominfo web\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [history]


@pytest.mark.parametrize(
    ("err", "words"),
    [
        (b"", ""),
        (b"error: Domain is already active\n", "Domain is already active"),
        (
            b"error: Failed to reset domain 'p1'\n"
            b"error: Requested operation is not valid: domain is not running\n",
            "Failed to reset domain 'p1': Requested operation is not valid: domain is not running",
        ),
        (b"error: Disconnected from qemu:///system due to end of file\n", ""),
        (b"error: Reconnected to the hypervisor\n", ""),
        (
            b"error: Disconnected from qemu:///system due to keepalive timeout\n"
            b"error: failed to get domain 'x'\n",
            "failed to get domain 'x'",
        ),
        (
            b"error: Failed to reconnect to the hypervisor\n"
            b"error: Failed to connect socket to '/run/s': Connection refused\n",
            "Failed to reconnect to the hypervisor: "
            "Failed to connect socket to '/run/s': Connection refused",
        ),
        (
            b"2026-01-02 03:04:05.678+0000: 12: warning : virFileWait:1 : slow\n"
            b"error: Domain is already active\n",
            "Domain is already active",
        ),
        (b"2026-01-02 03:04:05.678+0000: 12: warning : virFileWait:1 : slow\n", ""),
        (b"I/O warning : failed to load external entity\n", ""),
        (b"error: one\n  two\n\nerror: three\n", "one: two: three"),
        (b"error: failed to get domain 'a\rb'\n", "failed to get domain 'a\rb'"),
        (b"error: failed to get domain '\xff'\n", "failed to get domain '\udcff'"),
        ("error: in '\u2028'\n".encode(), "in '\u2028'"),
    ],
)
def test_message_is_what_libvirt_said(err: bytes, words: str) -> None:
    assert message(err) == words


def test_closing_in_one_thread_spares_another_session() -> None:
    with closing(open_session()) as one:
        other = open_session()
        closer = threading.Thread(target=other.close)
        closer.start()
        closer.join(30)
        assert is_in_step(one)
