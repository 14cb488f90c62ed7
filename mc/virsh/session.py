"""One live virsh process: commands in, their output or an error out.

virsh takes commands from a pipe, prompts, and echoes what it reads, so the output of a command
has to be framed. Two lines are written at once, T being a token of the session:

    echo <''T;COMMAND;...
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

from mc.errors import ConnectionLost, NoAnswer, Refused, Unavailable, Unreachable
from mc.virsh.binary import connecting
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

    `begin`, `receive` and `result` never wait; `greet` and `run` stand on them, and wait until
    deadlines, which are times of the monotonic clock, in seconds.
    """

    def __init__(self, binary: str, uri: str) -> None:
        token = secrets.token_hex(3).encode()
        self._start, self._end = b"<" + token, b">" + token
        self._first_line = b"echo <''" + token + b";"
        self._last_line = b"echo >''" + token + b"\n"
        self._commands: Sequence[Sequence[str]] = ()
        self._out, self._err = b"", b""
        self._ended = False
        self.busy = False
        """Whether commands were begun whose result nobody has had."""
        self.connected = False
        """Whether virsh has answered, which it does once it has connected."""
        self.usable = True
        """False once virsh has ended, lost libvirt, or missed a deadline."""
        self._document = os.fdopen(os.memfd_create("virsh-document"), "r+b", buffering=0)
        try:
            command = connecting(binary, uri)
            self._process = Process(command, uri, pass_fds=[self._document.fileno()])
        except Unreachable:
            self._document.close()
            raise
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._stderr = self._process.stderr
        self._poll = select.poll()
        for descriptor in self.descriptors:
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)

    def greet(self, deadline: float) -> None:
        """Wait until virsh has connected.

        Raises `Unreachable` with libvirt's words, or `NoAnswer`: connecting to a libvirtd that is
        stopped never ends.
        """
        try:
            self.run(["uri"], deadline)
        except Refused as error:
            self.usable = False
            raise Unreachable(error.words) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def descriptors(self) -> tuple[int, int]:
        """What to poll for reading until there is more to `receive`."""
        return self._stdout, self._stderr

    def fit(self) -> bool:
        """Whether the session may take a command: alive, and never cut off from libvirt.

        virsh reports a lost connection at once, also while it is idle.
        """
        if self.usable:
            err = _read(self._stderr)
            self.usable = err is not None and not _last(_DISCONNECTED, err)
        return self.usable

    def run(self, arguments: Sequence[str], deadline: float) -> bytes:
        """The standard output of one virsh command; raises as `begin` and `result` do."""
        self.begin(arguments)
        remaining = deadline - time.monotonic()
        while not self.receive(remaining) and remaining > 0:
            remaining = deadline - time.monotonic()
        return self.result()

    def begin(self, *commands: Sequence[str]) -> None:
        """Send virsh commands, which it does one after the other, whatever comes of each.

        Raises ValueError if they cannot be sent. What else goes wrong is told by `result`.
        """
        line = b";".join([command_line(command) for command in commands])
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"a virsh command of {len(line)} bytes")
        self._commands = commands
        self._out, self._err = b"", b""
        self.busy = True
        try:
            os.write(self._stdin, self._first_line + line + b"\n" + self._last_line)
        except BrokenPipeError:
            self._ended = True

    def receive(self, seconds: float = 0) -> bool:
        """Take what has come, having waited so long for it at most; whether that is all."""
        # Only what is there: each system call hands the interpreter to another thread.
        for descriptor, _ in self._poll.poll(seconds * 1000 if seconds > 0 else 0):
            data = _read(descriptor)
            if data is None:
                self._ended = True
            elif descriptor == self._stdout:
                self._out += data
            else:
                self._err += data
        return self._ended or self._end in self._out

    def result(self) -> bytes:
        """The standard output of what was begun.

        Raises `Refused` with libvirt's words, `ConnectionLost`, or `Unreachable` if virsh has
        never connected or did not regain its connection; `NoAnswer` if not all has come. After all
        but the first the session is of no more use.
        """
        self.busy = False
        whole = self._end in self._out
        if not whole and not self._ended:
            self.usable = False
            raise NoAnswer(self._typed())
        err = self._err + (_read(self._stderr) or b"")
        if not whole:
            raise self._lost(message(err) or "virsh has ended")
        if err:
            self._judge(err)
        out = self._unframe()
        self.connected = True
        return out

    def _lost(self, words: str) -> Unavailable:
        self.usable = False
        return ConnectionLost(self._typed(), words) if self.connected else Unreachable(words)

    def _typed(self) -> str:
        return "; ".join(" ".join(command) for command in self._commands)

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

    def _judge(self, err: bytes) -> None:
        """Raise what virsh's messages mean.

        virsh reconnects by itself before a command: a loss that was followed by a reconnection
        came before the command was sent to libvirt, one that was not came during it.
        """
        lost = max(_last(words, err) for words in _LOST)
        arguments = (encode(argument) for command in self._commands for argument in command)
        if not any(map(_LOST_AMID.search, arguments)):
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
            raise self._lost(words)
        self.connected = True
        raise Refused(self._typed(), words)

    def _unframe(self) -> bytes:
        start = self._out.find(self._start)
        end = self._out.find(_PROMPT + self._last_line + self._end)
        if not 0 <= start < end:
            raise self._lost("virsh's output is out of step")
        return self._out[start + len(self._start) : end]

    def kill(self) -> None:
        """End virsh from any thread: a command under way fails; `close` reaps it."""
        self._process.kill()

    def end(self) -> None:
        """Have virsh end in good order, or at once if it is busy or useless; `close` reaps it."""
        if self.usable and not self.busy:
            self._process.end()
        else:
            self._process.kill()
        self.usable = False

    def close(self) -> None:
        """End virsh as `end` does, and reap it, a second after that at the latest.

        A command that libvirt has begun goes on without it.
        """
        self.end()
        self._process.close()
        self._document.close()


# ssh's banner about a host whose key has changed, up to the line that says whose.
_BANNER = re.compile(rb"@{9,}\r?\n@ +(.+?) +@\r?\n@{9,}\r?\n(?:.*\n)*?(?=Host key )")
# What is wrong with a host's certificate stands in libvirt's log only.
_CERTIFICATE = re.compile(rb"^\d{4}-\S+ .* : Certificate check failed (.*)$", re.MULTILINE)
# libvirt does not know that this is how hosts refuse a certificate.
_HUNG_UP = "Unable to read TLS confirmation: Input/output error"
_REFUSED = f"{_HUNG_UP} (the host refuses the client certificate, or was sent none)"


def message(err: bytes) -> str:
    r"""What libvirt said in virsh's standard error, without the notices about the connection.

    Lines that precede the first `error:` are log lines of libvirt or libxml2; what follows it
    belongs to the error, which may have several lines.

    >>> message(b"error: Failed to reset domain 'p1'\nerror: domain is not running\n")
    "Failed to reset domain 'p1': domain is not running"
    >>> message(b"error: Disconnected from qemu:///system due to end of file\n")
    ''
    """
    lines = _BANNER.sub(rb"\1\n", err).split(b"\n")
    lines = [line for line in lines if line and not line.startswith(_NOTICES)]
    while lines and not lines[0].startswith(b"error:"):
        del lines[0]
    if lines:
        lines += _CERTIFICATE.findall(err)
    words = ": ".join(decode(line.removeprefix(b"error:").strip()) for line in lines)
    return words.replace(_HUNG_UP, _REFUSED)


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
