"""One stream of events: a virsh that never ends, connecting, connected, and replaced."""

import logging
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector

from mc.errors import Unreachable
from mc.virsh.process import Process
from mc.virsh.quoting import decode

log = logging.getLogger(__name__)

MARK = b"connected"
"""A line that virsh is to write when it has connected, before it asks for the events."""
# What it says after that of a hypervisor that does not have these events.
_NOT_SUPPORTED = "not supported by the connection driver"
# Seconds in which it has to connect: to a libvirtd that stands still it would for ever.
_CONNECTING = 5.0
# Asking for the events takes at most as many times as long as connecting did: 27 round trips, one
# for each kind, where connecting took 6 or more. After so many seconds it counts as done, which is
# for one who took long to connect for other reasons.
_ASKING, _LONGEST_ASKING = 5, 3.0
# Seconds between the end of a stream, which is how virsh reports a lost libvirtd, and the next:
# the first pause, and the longest, for a libvirt of this host and for one of another.
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_FAR_PAUSE = 0.05, 0.5, 15.0
_FAR = re.compile(r"[^:/?#]+://[^/?#]")
# Bytes that are read of one stream before it is another's turn, and that are kept of a line or of
# what virsh says on standard error.
_CHUNK = 1 << 16
# Seconds after which a process that has not connected is waiting, and does not cost anything.
_YOUNG = 0.5
NEVER = float("inf")


class Stream:
    """A virsh command that tells of events and never ends; one that does end is replaced.

    `Streams` makes them. `start`, `rest`, `stop` and `close` return at once, from any thread; the
    rest of its life is the streams' thread's. `connected` says whether events are heard now.
    `supported` is False once libvirt's driver has turned out not to have such events: then there
    is no other.
    """

    def __init__(
        self,
        command: list[str],
        uri: str,
        name: str,
        *,
        on_line: Callable[[bytes], None],
        on_connected: Callable[[], None],
        on_end: Callable[[str], None],
        selector: DefaultSelector,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self.connected = False
        self.supported = True
        self._command, self._uri, self._name = command, uri, name
        self._on_line, self._on_connected, self._on_end = on_line, on_connected, on_end
        self._selector = selector
        self._post = post
        self._far = _FAR.match(uri) is not None
        self._wanted = self.closed = False
        self._process: Process | None = None
        self._marked = False
        self._out = self._err = b""
        self._since = 0.0
        self._pause = _FIRST_PAUSE
        self._said = ""
        self.due = NEVER
        """When something is to be done about it: a time of the monotonic clock."""

    def start(self) -> None:
        """Keep a process running from now on."""
        self._post(self._start)

    def rest(self) -> None:
        """Start no new process: a connected one goes on, one that is still connecting is ended."""
        self._post(self._rest)

    def stop(self) -> None:
        """End it without a word to `on_end`; it may be started again."""
        self._post(self._stop)

    def close(self) -> None:
        """End it for good, without a word to `on_end`."""
        self._post(self._close)

    # In the streams' thread.

    @property
    def is_to_start(self) -> bool:
        """Whether what is due is the start of a process."""
        return self._process is None

    def is_young(self, now: float) -> bool:
        return self._process is not None and not self._marked and now - self._since < _YOUNG

    def run(self, now: float) -> None:
        """Start a process."""
        self._since = now
        self._marked = False
        self._out = self._err = b""
        try:
            self._process = process = Process(self._command, self._uri)
        except Unreachable as error:
            self._ended(str(error))
            return
        self.due = now + _CONNECTING
        for descriptor, read in (
            (process.stdout, self._read_events),
            (process.stderr, self._read_words),
        ):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, EVENT_READ, read)

    def on_time(self) -> None:
        """Do what is due about a process: by now it hears all events, or has not connected."""
        if self._marked:
            self.due = NEVER
            self.connected = True
            self._tell(self._on_connected)
        else:
            self._ended(f"no connection to libvirt within {_CONNECTING:g} s")

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def drop(self) -> None:
        """End the process and reap it."""
        self.connected = False
        self.due = NEVER
        process, self._process = self._process, None
        if process:
            for descriptor in (process.stdout, process.stderr):
                self._ignore(descriptor)
            process.close()

    def _start(self) -> None:
        if not self._wanted and not self.closed and self.supported:
            self._wanted = True
            self._pause = _FIRST_PAUSE
            if self._process is None:
                self.due = time.monotonic()

    def _rest(self) -> None:
        self._wanted = False
        if not self.connected:
            self.drop()

    def _stop(self) -> None:
        self._wanted = False
        self.drop()

    def _close(self) -> None:
        self.closed = True
        self._stop()

    def _read_events(self) -> None:
        if not self._process:
            return
        data = _read(self._process.stdout)
        if data is None:
            self._read_words()
            self._ended(_words(self._err) or "the stream ended")
            return
        *lines, rest = (self._out + data).split(b"\n")
        self._out = rest[:_CHUNK]
        for line in lines:
            if not self._marked and line == MARK:
                self._marked = True
                now = time.monotonic()
                self.due = now + min(_ASKING * (now - self._since), _LONGEST_ASKING)
            else:
                self._tell(self._on_line, line)

    def _read_words(self) -> None:
        """Read what virsh says on standard error, so that it never waits for a reader."""
        if not self._process:
            return
        data = _read(self._process.stderr)
        if data is None:
            self._ignore(self._process.stderr)
        else:
            self._err = (self._err + data)[-_CHUNK:]

    def _ignore(self, descriptor: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(descriptor)

    def _ended(self, words: str) -> None:
        """What is to be done when a process has ended, or could not be started."""
        now = time.monotonic()
        longest = _LONGEST_FAR_PAUSE if self._far else _LONGEST_PAUSE
        if self.connected and now - self._since > longest:
            self._pause = _FIRST_PAUSE
        self.drop()
        if self._marked and _NOT_SUPPORTED in words:
            self._wanted = self.supported = False
            log.info("no %s: %s", self._name, words)
        else:
            # Once for each reason: while libvirt is away it is tried again and again.
            level = logging.DEBUG if words == self._said else logging.WARNING
            log.log(level, "no %s: %s", self._name, words)
        self._said = words
        if self._wanted:
            jitter = random.uniform(0.5, 1) if self._far else 1  # noqa: S311 (it is no secret)
            self.due = now + self._pause * jitter
            self._pause = min(2 * self._pause, longest)
        self._tell(self._on_end, words)

    def _tell(self, hearer: Callable[..., None], *what: object) -> None:
        try:
            hearer(*what)
        except Exception:
            log.exception("%s cannot be followed", self._name)


def _read(descriptor: int) -> bytes | None:
    """What a non-blocking pipe holds, at most 64 KiB; None at its end."""
    try:
        return os.read(descriptor, _CHUNK) or None
    except BlockingIOError:
        return b""


def _words(err: bytes) -> str:
    r"""What virsh has said, in one line.

    >>> _words(b"error: failed to connect to the hypervisor\nerror: Connection refused\n")
    'failed to connect to the hypervisor: Connection refused'
    """
    lines = [line.removeprefix(b"error:").strip() for line in err.split(b"\n")]
    return ": ".join(decode(line) for line in lines if line)
