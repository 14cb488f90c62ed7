"""The stream of libvirt's reboot events, from a virsh process of its own."""

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

# Greedy: the name ends at the last quote of the line.
_REBOOT = re.compile(rb"event 'reboot' for domain '(.*)'")
# Seconds between the end of a stream, which is how virsh reports a lost libvirtd, and the next.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_CHUNK = 1 << 16


class RebootEvents:
    """Calls `on_reboot` with a machine's name whenever libvirt says that its guest rebooted.

    virsh tells no UUID. A reset counts as well as the guest's own reboot, and some firmware makes
    two events of one. A stream that ends, with libvirtd or by itself, is replaced. `on_reboot` is
    called in the stream's thread, and is not to block it.
    """

    def __init__(self, binary: str, uri: str, on_reboot: Callable[[str], None]) -> None:
        self._uri = uri
        self._command = mortal([binary, "-q", "-c", uri, "event", "--event", "reboot", "--loop"])
        self._on_reboot = on_reboot
        self._stopped = Event()
        self._process: Process | None = None
        self._starting = Lock()
        self._thread = Thread(target=self._run, name="reboot events")

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
            # Once for each reason: while libvirt is away it is tried again and again.
            news = words != said and not self._stopped.is_set()
            log.log(logging.WARNING if news else logging.DEBUG, "no reboot events: %s", words)
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
                found = _REBOOT.fullmatch(line)
                if found:
                    seen = True
                    self._on_reboot(decode(found[1]))
            os.set_blocking(process.stderr, False)
            return seen, _last_words(process.stderr)
        finally:
            with self._starting:
                self._process = None
            process.close()


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
