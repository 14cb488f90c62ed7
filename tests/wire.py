"""HTTP at the level of bytes: requests that no client library would send, and what comes back."""

import socket
from contextlib import suppress
from typing import Self

from tests.daemon import Answer

_PATIENCE = 60.0
"""Seconds in which something has to come; the socket's time-out is a test's failure."""


class Response(Answer):
    """An answer as it came."""

    @property
    def goes_on(self) -> bool:
        """Whether it never ends by itself."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def ends_connection(self) -> bool:
        return self.goes_on or self.headers.get("connection", "").lower() == "close"


class Wire:
    """A connection to a port of the loopback, which may hold any number of requests."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Send bytes; after the last ones the other side reads the end."""
        # It may have ended the connection already, having answered.
        with suppress(ConnectionError):
            self._socket.sendall(data)
        if last:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def response(self, *, to_head: bool = False, final: bool = True) -> Response | None:
        """The next final response, or any; None if the connection ended before one began.

        Raises AssertionError for what is no response, TimeoutError if nothing comes.
        """
        while True:
            response = self._response(to_head)
            if response is None or response.status >= 200 or not final:
                return response

    def everything(self) -> bytes:
        """All that comes until the connection ends, or begins to go on for ever."""
        while self._receive() and b"Content-Type: text/event-stream" not in self._received:
            pass
        return self._received

    def _response(self, to_head: bool) -> Response | None:
        while b"\r\n\r\n" not in self._received:
            if not self._receive():
                assert not self._received, self._received
                return None
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1", head
        headers = {}
        for line in lines:
            name, colon, value = line.partition(": ")
            assert colon and name.lower() not in headers, head
            headers[name.lower()] = value
        response = Response(int(status), headers, b"")
        if to_head or response.goes_on or response.status in (100, 204):
            return response
        length = int(headers["content-length"])
        while len(self._received) < length:
            assert self._receive(), (head, self._received)
        body, self._received = self._received[:length], self._received[length:]
        return Response(response.status, headers, body)

    def _receive(self) -> bool:
        """Whether more has come; False at the end of the connection."""
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        self._received += data
        return bool(data)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
