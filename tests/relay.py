"""A longer way to a libvirtd: what goes through its socket takes its time, in either direction."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Self

_CHUNK = 1 << 16


class Relay:
    """Listens at a Unix socket and passes on to another one, what it gets `seconds` later."""

    def __init__(self, to: Path, seconds: float, at: Path) -> None:
        self._to = to
        self._seconds = seconds
        self._at = at
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
            ways = [self._pass_on(client, server), self._pass_on(server, client)]
            with suppress(OSError):
                await asyncio.gather(*ways)

    async def _pass_on(self, come_from: socket.socket, go_to: socket.socket) -> None:
        """Whole directions: what was written first arrives first."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            data = b"first"
            while data:
                data = await self._loop.sock_recv(come_from, _CHUNK)
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
