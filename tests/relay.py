"""A longer way to a libvirtd: what goes through its socket takes its time, and is counted."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Self

_CHUNK = 1 << 16
# libvirt's remote protocol: https://libvirt.org/kbase/internals/rpc.html
_HEADER = struct.Struct(">5I")
_REMOTE_PROGRAM, _CALL = 0x20008086, 0


class Relay:
    """Listens at a Unix socket and passes on to another one, what it gets `seconds` later."""

    def __init__(self, to: Path, seconds: float, at: Path) -> None:
        self._to = to
        self._seconds = seconds
        self._at = at
        self.calls = 0
        """How many calls of libvirt's have gone through: a round trip each."""
        self._loop = asyncio.new_event_loop()
        self._ready = Event()
        self._end: asyncio.Event | None = None
        self._thread = Thread(target=self._run)

    @property
    def uri(self) -> str:
        """libvirt's session, by this way."""
        return f"qemu+unix:///session?socket={self._at}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._end
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def accept() -> None:
            while True:
                client, _ = await self._loop.sock_accept(listener)
                connections.add(self._loop.create_task(self._connect(client)))

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._at))
            # Whoever runs libvirtd may not be root.
            self._at.chmod(0o777)
            listener.listen()
            listener.setblocking(False)
            accepting = self._loop.create_task(accept())
            self._ready.set()
            await self._end.wait()
            for task in (accepting, *connections):
                task.cancel()
            await asyncio.gather(accepting, *connections, return_exceptions=True)

    async def _connect(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            for each in (client, server):
                each.setblocking(False)
            await self._loop.sock_connect(server, str(self._to))
            ways = [
                self._pass_on(client, server, self._count()),
                self._pass_on(server, client),
            ]
            with suppress(OSError):
                await asyncio.gather(*ways)

    def _count(self) -> Callable[[bytes], None]:
        """What takes note of the calls in a stream, whatever the pieces that it comes in."""
        held = bytearray()

        def take(data: bytes) -> None:
            held.extend(data)
            while len(held) >= _HEADER.size:
                length, program, _, _, kind = _HEADER.unpack_from(held)
                if len(held) < length:
                    return
                self.calls += (program, kind) == (_REMOTE_PROGRAM, _CALL)
                del held[:length]

        return take

    async def _pass_on(
        self,
        come_from: socket.socket,
        go_to: socket.socket,
        take: Callable[[bytes], None] = lambda data: None,
    ) -> None:
        """Whole directions: what was written first arrives first."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            data = b"first"
            while data:
                data = await self._loop.sock_recv(come_from, _CHUNK)
                take(data)
                under_way.put_nowait((self._loop.time() + self._seconds, data))

        async def write() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                if not data:
                    go_to.shutdown(socket.SHUT_WR)
                    return
                await self._loop.sock_sendall(go_to, data)

        await asyncio.gather(read(), write())
