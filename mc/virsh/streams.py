"""Events of all hosts, as many virsh processes tell them, read by one thread."""

import os
import time
from collections.abc import Callable
from queue import SimpleQueue
from selectors import EVENT_READ, DefaultSelector
from threading import Lock, Thread
from typing import TypeVar

from mc.virsh.binary import connecting, mortal
from mc.virsh.events import QemuEvent, parsed, qemu_event
from mc.virsh.stream import MARK, NEVER, Stream

# Processes that are started in one turn of the loop, and that may be connecting at once.
_STARTS, _AT_ONCE = 2, 16
# Seconds between two looks whether there is a place to start another one.
_LOOK = 0.02

E = TypeVar("E")


class Streams:
    """The streams of events of all hosts, and the one thread that starts, reads and ends them.

    What it calls is not to block it: `on_event` with each event; `on_connected` when a stream hears
    whatever happens from now on; `on_end` with the reason, in virsh's words, when it has ended or
    could not connect, so that something may have been missed. `name` is the host's, for the log.
    """

    def __init__(self) -> None:
        self._prefix = mortal()
        self._streams: list[Stream] = []
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._selector = DefaultSelector()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._bell, EVENT_READ, self._answer)
        self._lock = Lock()
        self._closed = False
        # The processes die with this thread: it lives as long as the daemon.
        self._thread = Thread(target=self._run, name="events")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End all streams; their processes are gone when this returns. Harmless twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.eventfd_write(self._bell, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._selector.close()
        os.close(self._bell)

    def domain_events(
        self,
        binary: str,
        uri: str,
        *,
        on_event: Callable[[str, str], None],
        on_connected: Callable[[], None],
        on_end: Callable[[str], None],
        name: str = "",
    ) -> Stream:
        """libvirt's: `on_event` gets an event's kind, one of `virsh event --list`, and a name.

        virsh tells no UUID. A reset is a `reboot` as well as the guest's own.
        """
        on_line = _telling(parsed, lambda event: on_event(*event))
        return self._stream(binary, uri, "event --all --loop", name, on_line, on_connected, on_end)

    def qemu_events(
        self,
        binary: str,
        uri: str,
        *,
        on_event: Callable[[QemuEvent], None],
        on_connected: Callable[[], None],
        on_end: Callable[[str], None],
        name: str = "",
    ) -> Stream:
        """QEMU's, of every machine: libvirt's QEMU driver alone has them."""
        on_line = _telling(qemu_event, on_event)
        # Not with --timestamp, which is when virsh has heard of it: QEMU's own time stands there
        # else.
        command = "qemu-monitor-event --loop"
        return self._stream(binary, uri, command, name, on_line, on_connected, on_end)

    def _stream(
        self,
        binary: str,
        uri: str,
        command: str,
        name: str,
        on_line: Callable[[bytes], None],
        on_connected: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> Stream:
        told = f"echo '{MARK.decode('ascii')}\n'; {command}"
        stream = Stream(
            [*self._prefix, *connecting(binary, uri), told],
            uri,
            f"events{name and f' of {name}'} by virsh {command.split()[0]}",
            on_line=on_line,
            on_connected=on_connected,
            on_end=on_end,
            selector=self._selector,
            post=self._post,
        )
        self._post(lambda: self._streams.append(stream))
        return stream

    def _post(self, ask: Callable[[], None]) -> None:
        """Have the thread do something."""
        with self._lock:
            if not self._closed:
                self._asked.put(ask)
                os.eventfd_write(self._bell, 1)

    def _answer(self) -> None:
        os.eventfd_read(self._bell)
        while not self._asked.empty():
            self._asked.get()()
        self._streams = [stream for stream in self._streams if not stream.closed]

    def _run(self) -> None:
        try:
            seconds: float | None = None
            while not self._closed:
                for key, _ in self._selector.select(seconds):
                    key.data()
                seconds = self._attend()
        finally:
            for stream in self._streams:
                stream.kill()
            for stream in self._streams:
                stream.drop()

    def _attend(self) -> float | None:
        """Do what is due; the seconds until something else will be, None if nothing will."""
        now = time.monotonic()
        for stream in self._streams:
            if stream.due <= now and not stream.is_to_start:
                stream.on_time()
        waiting = [each for each in self._streams if each.is_to_start and each.due <= now]
        if waiting:
            waiting.sort(key=lambda stream: stream.due)
            places = _AT_ONCE - sum(stream.is_young(now) for stream in self._streams)
            for stream in waiting[: max(0, min(_STARTS, places))]:
                stream.run(now)
            return 0 if places > 0 else _LOOK
        next_due = min((stream.due for stream in self._streams), default=NEVER)
        return None if next_due == NEVER else max(0, next_due - time.monotonic())


def _telling(
    parse: Callable[[bytes], E | None], tell: Callable[[E], None]
) -> Callable[[bytes], None]:
    """What tells of each line that is an event."""

    def on_line(line: bytes) -> None:
        event = parse(line)
        if event is not None:
            tell(event)

    return on_line
