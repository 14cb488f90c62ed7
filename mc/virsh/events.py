"""The stream of libvirt's events about machines, from a virsh process of its own."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from threading import Event, Lock, Thread

from mc.errors import Unreachable
from mc.virsh.binary import mortal
from mc.virsh.process import Process
from mc.virsh.quoting import decode

log = logging.getLogger(__name__)

_EVENT = re.compile(rb"event '([a-z0-9-]+)' for domain '(.*)")
# Seconds between the end of a stream, which is how virsh reports a lost libvirtd, and the next.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_CHUNK = 1 << 16


class DomainEvents:
    """Calls `on_event` with an event's kind and a machine's name whenever libvirt tells of one.

    The kinds are those that `virsh event --list` names. virsh tells no UUID. A reset is a `reboot`
    as well as the guest's own, and some firmware makes two events of one.

    A stream that ends, with libvirtd or by itself, is replaced; `on_end` is called each time.
    Both are called in the stream's thread, and are not to block it.
    """

    def __init__(
        self,
        binary: str,
        uri: str,
        *,
        on_event: Callable[[str, str], None],
        on_end: Callable[[], None],
    ) -> None:
        self._uri = uri
        self._command = mortal([binary, "-q", "-c", uri, "event", "--all", "--loop"])
        self._on_event = on_event
        self._on_end = on_end
        self._stopped = Event()
        self._process: Process | None = None
        self._starting = Lock()
        self._thread = Thread(target=self._run, name="events")

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
            # Once for each reason: while libvirt is away it is tried again and again.
            news = words != said and not self._stopped.is_set()
            log.log(logging.WARNING if news else logging.DEBUG, "no events: %s", words)
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
                event = parsed(line)
                if event:
                    seen = True
                    self._on_event(*event)
            os.set_blocking(process.stderr, False)
            return seen, _last_words(process.stderr)
        finally:
            with self._starting:
                self._process = None
            process.close()


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
