"""The streams of events about machines, each from a virsh process of its own.

libvirt's own tell of whatever changes, but not why a machine has ended, nor when something came to
pass; QEMU's do (https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html).
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TypeVar

from mc.errors import Unreachable
from mc.virsh.binary import mortal
from mc.virsh.process import Process
from mc.virsh.quoting import decode

log = logging.getLogger(__name__)

_EVENT = re.compile(rb"event '([a-z0-9-]+)' for domain '(.*)")
_QEMU_EVENT = re.compile(rb"event ([A-Z_]+) at (\d+\.\d+) for domain '(.*)': ")
# What virsh says of a hypervisor that is not QEMU.
_NOT_SUPPORTED = "not supported by the connection driver"
# Seconds between the end of a stream, which is how virsh reports a lost libvirtd, and the next.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_CHUNK = 1 << 16

E = TypeVar("E")


@dataclass(frozen=True)
class QemuEvent:
    """What QEMU has told of the machine of this name.

    at: when, in seconds since 1970 by the clock of the machine's host; reason: of RESET and
    SHUTDOWN, QEMU's ShutdownCause, such as `guest-reset`.
    """

    kind: str
    name: str
    at: float
    reason: str


class EventStream:
    """Calls `on_line` with each line of a virsh command that never ends, such as `event --loop`.

    `on_line` returns whether it was an event. A stream that ends, with libvirtd or by itself, is
    replaced; `on_end` is called each time. One that libvirt's driver does not have is not: then
    `supported` is False. Both are called in the stream's thread, and are not to block it.
    """

    def __init__(
        self,
        binary: str,
        uri: str,
        *command: str,
        on_line: Callable[[bytes], bool],
        on_end: Callable[[], None],
    ) -> None:
        self._uri = uri
        self._command = mortal([binary, "-q", "-c", uri, *command])
        self._on_line = on_line
        self._on_end = on_end
        self.supported = True
        self._stopped = Event()
        self._process: Process | None = None
        self._starting = Lock()
        self._name = f"events by virsh {command[0]}"
        self._thread = Thread(target=self._run, name=self._name)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the stream; its virsh is gone when this returns."""
        with self._starting:
            self._stopped.set()
            if self._process:
                self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        said = ""
        while not self._stopped.is_set():
            try:
                seen, words = self._follow()
            except Unreachable as error:
                seen, words = False, str(error)
            self._on_end()
            if _NOT_SUPPORTED in words:
                self.supported = False
                log.info("no %s: %s", self._name, words)
                return
            # Once for each reason: while libvirt is away it is tried again and again.
            news = words != said and not self._stopped.is_set()
            log.log(logging.WARNING if news else logging.DEBUG, "no %s: %s", self._name, words)
            said = words
            pause = _FIRST_PAUSE if seen else min(2 * pause, _LONGEST_PAUSE)
            self._stopped.wait(pause)

    def _follow(self) -> tuple[bool, str]:
        """Report the events of one stream until it ends: whether there were any, and why it did."""
        with self._starting:
            if self._stopped.is_set():
                return False, ""
            self._process = process = Process(self._command, self._uri)
        seen = False
        try:
            for line in _lines(process.stdout):
                seen = self._on_line(line) or seen
            os.set_blocking(process.stderr, False)
            return seen, _last_words(process.stderr)
        finally:
            with self._starting:
                self._process = None
            process.close()


def domain_events(
    binary: str, uri: str, *, on_event: Callable[[str, str], None], on_end: Callable[[], None]
) -> EventStream:
    """libvirt's: `on_event` gets an event's kind, one of `virsh event --list`, and a name.

    virsh tells no UUID. A reset is a `reboot` as well as the guest's own.
    """
    on_line = _telling(parsed, lambda event: on_event(*event))
    return EventStream(binary, uri, "event", "--all", "--loop", on_line=on_line, on_end=on_end)


def qemu_events(
    binary: str, uri: str, *, on_event: Callable[[QemuEvent], None], on_end: Callable[[], None]
) -> EventStream:
    """QEMU's, of every machine: libvirt's QEMU driver alone has them."""
    on_line = _telling(qemu_event, on_event)
    # Not with --timestamp, which is when virsh has heard of it: QEMU's own time stands there else.
    command = ("qemu-monitor-event", "--loop")
    return EventStream(binary, uri, *command, on_line=on_line, on_end=on_end)


def _telling(
    parse: Callable[[bytes], E | None], tell: Callable[[E], None]
) -> Callable[[bytes], bool]:
    """What tells of each line that is an event, and returns whether it was one."""

    def on_line(line: bytes) -> bool:
        event = parse(line)
        if event is not None:
            tell(event)
        return event is not None

    return on_line


def qemu_event(line: bytes) -> QemuEvent | None:
    r"""An event from one line of virsh; None if it is none.

    >>> qemu_event(b"event RESET at 9.5 for domain 'a': {\"reason\":\"guest-reset\"}")
    QemuEvent(kind='RESET', name='a', at=9.5, reason='guest-reset')
    >>> qemu_event(b"event STOP at 17.000042 for domain 'it's': x': <null>")
    QemuEvent(kind='STOP', name="it's': x", at=17.000042, reason='')

    What follows the name holds, in the events that tell a reason, no quote like the name's.
    """
    found = _QEMU_EVENT.match(line)
    if not found:
        return None
    reason = re.search(rb'"reason":"([a-z-]+)"', line[found.end() :])
    return QemuEvent(
        found[1].decode("ascii"),
        decode(found[3]),
        float(found[2]),
        reason[1].decode("ascii") if reason else "",
    )


def parsed(line: bytes) -> tuple[str, str] | None:
    """The kind of an event and the machine's name, from one line of virsh; None if it is no event.

    >>> parsed(b"event 'lifecycle' for domain 'it's': x': Started Booted")
    ('lifecycle', "it's': x")
    >>> parsed(b"event 'reboot' for domain 'a': b'")
    ('reboot', "a': b")
    >>> parsed(b"event 'metadata-change' for domain 'a': type element, uri urn:x")
    ('metadata-change', 'a')

    The name stands between quotes and may hold quotes. It ends at the last one: what virsh adds
    about a `lifecycle` holds none, and about a `reboot` it adds nothing. Of other kinds, which
    may quote something else, a name that is odd enough may come out wrong.
    """
    found = _EVENT.match(line)
    if not found:
        return None
    name, quote, more = found[2].rpartition(b"'")
    if not quote or (more and not more.startswith((b":", b" "))):
        return None
    return found[1].decode("ascii"), decode(name)


def _last_words(descriptor: int) -> str:
    try:
        return decode(os.read(descriptor, _CHUNK)).strip()
    except BlockingIOError:
        return "the stream ended"


def _lines(descriptor: int) -> Iterator[bytes]:
    """The lines of a pipe, each as soon as it is there."""
    rest = b""
    while data := os.read(descriptor, _CHUNK):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
