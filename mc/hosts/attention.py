"""Hearing QEMU's events while there is a boot to follow, and no longer: they cost a process."""

import logging
import time
from collections.abc import Callable
from threading import Event, Lock
from typing import Protocol

from mc.boot.reboots import RebootRule
from mc.virsh import QemuEvent, Stream

log = logging.getLogger(__name__)

# Seconds without any event of a machine after which one looks whether there is a boot to follow.
_CALM = 15.0
# Seconds that a stream may take to connect before one goes on without it.
_CONNECTING = 6.0


class Opener(Protocol):
    """What opens the stream of QEMU's events; see `Streams.qemu_events`."""

    def __call__(
        self,
        *,
        on_event: Callable[[QemuEvent], None],
        on_connected: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> Stream: ...


class Attention:
    """The stream of QEMU's events of a host.

    It begins before a boot that is to be followed is set, and when anything happens to a machine,
    which may come from another host in the middle of such a boot. It ends when nothing has happened
    for a while, and no machine runs that is to be followed.
    """

    def __init__(self, opened: Opener, rule: RebootRule, on_end: Callable[[str], None]) -> None:
        self._rule = rule
        self._on_end = on_end
        self._lock = Lock()
        self._is_wanted = False
        self._hears = Event()
        # When something happened, or one has looked, last; a time of the monotonic clock.
        self._at = 0.0
        self._stream = opened(on_event=rule.heard, on_connected=self._connected, on_end=self._ended)

    def start(self) -> None:
        """Have events heard from now on; returns at once."""
        with self._lock:
            self._at = time.monotonic()
            self._is_wanted = True
            self._stream.start()

    def listen(self) -> None:
        """Have events heard, and wait until they are."""
        self.start()
        if self._stream.supported and not self._hears.wait(_CONNECTING):
            log.warning("a reboot may not be followed: QEMU's events are not heard yet")

    def heard(self, kind: str, name: str) -> None:
        """Take note of an event of libvirt's about the machine of this name; returns at once."""
        if kind == "lifecycle":
            self.start()
        if kind == "reboot" and not self._stream.supported:
            self._rule.rebooted(name)

    def rest(self) -> None:
        """See `Stream.rest`."""
        self._stream.rest()

    def close(self) -> None:
        self._stream.close()

    def tidy(self) -> None:
        """End the stream if it is not needed; to be called every few seconds."""
        with self._lock:
            now = time.monotonic()
            if not self._is_wanted or now - self._at < _CALM:
                return
            self._at = now
        self._rule.look_around(lambda: self._stop(now))

    def _stop(self, looked_at: float) -> None:
        with self._lock:
            # Unless something has happened since one began to look.
            if self._at == looked_at:
                self._is_wanted = False
                self._hears.clear()
                self._stream.stop()

    def _connected(self) -> None:
        self._hears.set()
        self._rule.look_back()

    def _ended(self, words: str) -> None:
        self._hears.clear()
        self._on_end(words)
