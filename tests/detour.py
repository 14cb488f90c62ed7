"""A way to the daemon that takes its time: a TCP proxy on the loopback."""

import re
import socket
from contextlib import suppress
from threading import Event, Thread
from typing import Self

_PATIENCE = 60.0


class Detour:
    """Passes requests on at once, and each answer when it is `open`, and after so many seconds.

    Requests by the method that is `held` are passed on only when they are let `go`.

    It knows answers that end with their connection, as those to HTTP/1.0 do.
    """

    def __init__(self, port: int, seconds: float = 0) -> None:
        self.open = Event()
        self.open.set()
        self.held = ""
        self.go = Event()
        self.requests = 0
        """How many have passed."""
        self.answered = 0
        """How many of them have been answered by the daemon, also if the answer waits here."""
        self._to = port
        self.seconds = seconds
        """What each answer waits here."""
        self._closing = Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            client, _ = self._listener.accept()
            thread = Thread(target=self._pass_on, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, client: socket.socket) -> None:
        # Either may go away at any time, as those who pass by here do.
        with client, suppress(OSError):
            client.settimeout(_PATIENCE)
            request = _request(client)
            if not request:
                return
            if self.held and request.startswith(self.held.encode()):
                self.go.wait(_PATIENCE)
            with socket.create_connection(("127.0.0.1", self._to), _PATIENCE) as daemon:
                daemon.sendall(request)
                self.requests += 1
                answer = b"".join(iter(lambda: daemon.recv(65536), b""))
            self.answered += 1
            self.open.wait(_PATIENCE)
            self._closing.wait(self.seconds)
            client.sendall(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.open.set()
        self.go.set()
        # Wakes the one who accepts.
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._listener.close()


def _request(client: socket.socket) -> bytes:
    """One request, with its body; nothing if the client goes away first."""
    request = b""
    while chunk := client.recv(65536):
        request += chunk
        head, end, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if end and len(body) >= (int(length[1]) if length else 0):
            return request
    return b""
