"""One live virsh process: a command in, its output or an error out.

virsh takes commands from a pipe, prompts, and echoes what it reads, so the output of a command
has to be framed. Two lines are written at once, T being a token of the session:

    echo <''T;COMMAND
    echo >''T

The output is what lies between `<T` and the prompt of the second line; the quotes keep the marks
out of the echo. A line that virsh cannot parse is dropped whole, so an end mark without a start
mark is a syntax error. virsh writes standard error unbuffered and before the end mark, so all of
a command's messages are in the pipe when the mark has come.
"""

import os
import re
import secrets
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mc.errors import ConnectionLost, NoAnswer, Refused, Unreachable
from mc.virsh.process import Process
from mc.virsh.quoting import command_line, decode, encode

_CHUNK = 1 << 16
# A line must fit into an empty pipe (64 KiB), so that writing it never waits for virsh.
_LONGEST_LINE = 1 << 15
_DISCONNECTED = b"error: Disconnected from "
# What a command says that the loss of its connection ends; virsh's notice may come after it.
_LOST = (
    _DISCONNECTED,
    b"error: internal error: client socket is closed",
    b"error: Cannot recv data: ",
    b"error: Cannot write data: ",
    b"error: End of file while reading data: ",
    b"error: no valid connection",
)
# virsh's notice comes from another of its threads, and may stand amid a message.
_LOST_AMID = re.compile(rb"Disconnected from \S+ due to |error: no valid connection$", re.MULTILINE)
_REGAINED = b"error: Reconnected to "
_NOT_REGAINED = b"error: Failed to reconnect "
# The last one is about the history that the environment denies to virsh.
_NOTICES = (_DISCONNECTED, _REGAINED, b"error: Failed to create '/dev/null/")
_PROMPT = b"virsh # "


class Session:
    """A virsh process for one URI, to be greeted first. It serves one caller at a time.

    Deadlines are times of the monotonic clock, in seconds.
    """

    def __init__(self, binary: str, uri: str) -> None:
        token = secrets.token_hex(3).encode()
        self._start, self._end = b"<" + token, b">" + token
        self._first_line = b"echo <''" + token + b";"
        self._last_line = b"echo >''" + token + b"\n"
        self.usable = True
        """False once virsh has ended, lost libvirt, or missed a deadline."""
        self._document = os.fdopen(os.memfd_create("virsh-document"), "r+b", buffering=0)
        try:
            command = [binary, "-q", "-c", uri]
            self._process = Process(command, uri, pass_fds=[self._document.fileno()])
        except Unreachable:
            self._document.close()
            raise
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._stderr = self._process.stderr
        self._poll = select.poll()
        for descriptor in (self._stdout, self._stderr):
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)

    def greet(self, deadline: float) -> None:
        """Wait until virsh has connected.

        Raises `Unreachable` with libvirt's words, or `NoAnswer`: connecting to a libvirtd that is
        stopped never ends.
        """
        try:
            self.run(["uri"], deadline)
        except (Refused, ConnectionLost) as error:
            self.usable = False
            raise Unreachable(error.words) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def fit(self) -> bool:
        """Whether the session may take a command: alive, and never cut off from libvirt.

        virsh reports a lost connection at once, also while it is idle.
        """
        if self.usable:
            err = _read(self._stderr)
            self.usable = err is not None and not _last(_DISCONNECTED, err)
        return self.usable

    def run(self, arguments: Sequence[str], deadline: float) -> bytes:
        """The standard output of one virsh command.

        Raises `Refused` with libvirt's words, `ConnectionLost` or `NoAnswer`. After the latter
        two the session is of no more use.
        """
        line = command_line(arguments)
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"a virsh command of {len(line)} bytes")
        out, err = b"", b""
        try:
            os.write(self._stdin, self._first_line + line + b"\n" + self._last_line)
            while self._end not in out:
                remaining = deadline - time.monotonic()
                ready = self._poll.poll(remaining * 1000) if remaining > 0 else []
                if not ready:
                    self.usable = False
                    raise NoAnswer(" ".join(arguments))
                # Only what is there: each system call hands the interpreter to another thread.
                for descriptor, _ in ready:
                    if descriptor == self._stdout:
                        out += self._receive(descriptor)
                    else:
                        err += self._receive(descriptor)
        except (BrokenPipeError, EOFError) as error:
            self.usable = False
            words = message(err + (_read(self._stderr) or b"")) or "virsh has ended"
            raise ConnectionLost(" ".join(arguments), words) from error
        err += _read(self._stderr) or b""
        if err:
            self._judge(arguments, err)
        return self._unframe(arguments, out)

    @contextmanager
    def document(self, text: str) -> Iterator[str]:
        """The path under which virsh finds a text for the length of the block, or writes a file.

        It lies in memory that this process and virsh share: domain XML may hold secrets.
        """
        self._document.write(encode(text))
        try:
            yield f"/dev/fd/{self._document.fileno()}"
        finally:
            self._document.seek(0)
            self._document.truncate()

    def written(self, most: int) -> bytes | None:
        """What virsh has written to a document's path; None if that is more bytes than `most`."""
        size = os.fstat(self._document.fileno()).st_size
        return None if size > most else os.pread(self._document.fileno(), size, 0)

    def _receive(self, descriptor: int) -> bytes:
        data = _read(descriptor)
        if data is None:
            raise EOFError
        return data

    def _judge(self, arguments: Sequence[str], err: bytes) -> None:
        """Raise what virsh's messages mean.

        virsh reconnects by itself before a command: a loss that was followed by a reconnection
        came before the command was sent to libvirt, one that was not came during it.
        """
        lost = max(_last(words, err) for words in _LOST)
        if not any(_LOST_AMID.search(encode(argument)) for argument in arguments):
            lost = max(lost, *(found.start() + 1 for found in _LOST_AMID.finditer(err)), 0)
        if lost:
            self.usable = False
        words = message(err)
        if not words:
            return
        if _last(_NOT_REGAINED, err):
            self.usable = False
            raise Unreachable(words)
        if lost > _last(_REGAINED, err):
            raise ConnectionLost(" ".join(arguments), words)
        raise Refused(" ".join(arguments), words)

    def _unframe(self, arguments: Sequence[str], out: bytes) -> bytes:
        start = out.find(self._start)
        end = out.find(_PROMPT + self._last_line + self._end)
        if not 0 <= start < end:
            self.usable = False
            raise ConnectionLost(" ".join(arguments), "virsh's output is out of step")
        return out[start + len(self._start) : end]

    def kill(self) -> None:
        """End virsh from any thread: a command under way fails; `close` reaps it."""
        self._process.kill()

    def close(self) -> None:
        """End virsh and reap it. A command that libvirt has begun goes on without it."""
        self.usable = False
        self._process.close()
        self._document.close()


def message(err: bytes) -> str:
    r"""What libvirt said in virsh's standard error, without the notices about the connection.

    Lines that precede the first `error:` are log lines of libvirt or libxml2; what follows it
    belongs to the error, which may have several lines.

    >>> message(b"error: Failed to reset domain 'p1'\nerror: domain is not running\n")
    "Failed to reset domain 'p1': domain is not running"
    >>> message(b"error: Disconnected from qemu:///system due to end of file\n")
    ''
    """
    lines = [line for line in err.split(b"\n") if line and not line.startswith(_NOTICES)]
    while lines and not lines[0].startswith(b"error:"):
        del lines[0]
    return ": ".join(decode(line.removeprefix(b"error:").strip()) for line in lines)


def _last(words: bytes, err: bytes) -> int:
    """Where the last line that begins with these words stands, counted from 1; 0 if none does.

    Elsewhere in a line it may be part of a machine's name.
    """
    return (b"\n" + err).rfind(b"\n" + words) + 1


def _read(descriptor: int) -> bytes | None:
    """What a non-blocking pipe holds, at most 64 KiB; None at its end."""
    try:
        return os.read(descriptor, _CHUNK) or None
    except BlockingIOError:
        return b""
