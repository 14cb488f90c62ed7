"""HTTP below the application: connections, their requests, and what cheroot answers itself."""

import io
import logging
import select
import socket
import ssl
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from cheroot.server import HeaderReader, HTTPConnection
from cheroot.wsgi import Gateway_10
from cherrypy import _cpwsgi_server

from mc.web.headers import EVERY_ANSWER
from mc.web.problems import Problem
from mc.web.server.incoming import Incoming

if TYPE_CHECKING:
    from mc.web.server.reception import Reception

log = logging.getLogger(__name__)

SOCKET = "libvirt_http_mc.socket"
"""Under this name the WSGI environment holds the connection's socket."""

_CHUNK = 1 << 16


class Headers(HeaderReader):
    """Reads headers, less those that are none of the application's business."""

    def _allow_header(self, key_name: bytes) -> bool:
        """`Expect` has been answered; in WSGI, `X_Y` could not be told from `X-Y` (PEP 3333)."""
        return key_name != b"Expect" and b"_" not in key_name


class Request(_cpwsgi_server.CPWSGIHTTPRequest):  # type: ignore[misc]
    """A request, all of which has come."""

    header_reader = Headers()

    def write(self, chunk: bytes) -> None:
        """An answer without a length goes on, and each part of it waits for the client here."""
        super().write(chunk)
        if all(name.lower() != b"content-length" for name, _ in self.outheaders):
            self.conn.wfile.finish(self.server.timeout)

    def respond(self) -> None:
        super().respond()
        self.conn.wfile.send()

    def parse_request(self) -> None:
        try:
            super().parse_request()
        except ValueError as error:
            # Such as `http://[::1`, which cheroot does not expect.
            self.simple_response("400 Bad Request", f"the request cannot be read: {error}")

    def simple_response(self, status: str, msg: str = "") -> None:
        """Answer what never gets to the application, and end the connection."""
        code = HTTPStatus(int(str(status)[:3]))
        self.close_connection = True
        problem = Problem(code, msg or code.description or code.phrase)
        self.conn.wfile.write(refusal(problem))


class Writer:
    """Keeps what is written to it until the client takes it: sending waits for nobody."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._kept = b""

    def write(self, data: bytes) -> None:
        self._kept += data

    @property
    def unsent(self) -> int:
        """How many bytes are still kept."""
        return len(self._kept)

    def send(self) -> bool:
        """Send what the system takes at once; whether that is all. Raises OSError."""
        while self._kept:
            try:
                sent = self._socket.send(self._kept)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return False
            self._kept = self._kept[sent:]
        return True

    def finish(self, seconds: float) -> None:
        """Send all. Raises TimeoutError if that takes longer, or OSError."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while not self.send():
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not poll.poll(remaining * 1000):
                # The words by which cheroot knows that it is not to log this.
                raise TimeoutError("timed out")


class Connection(HTTPConnection):
    """A connection, which is either with the reception, without blocking, or with a worker.

    deadline: time of the monotonic clock until which the reception waits for it.
    waiting: whether the reception waits for the client.
    draining: whether all has been answered, so that what comes is of no interest.

    A worker never waits for a client that does not read: what the system does not take of an
    answer at once, the reception sends, and takes no request meanwhile.
    """

    RequestHandlerClass = Request

    def __init__(self, reception: "Reception", connection: socket.socket, address: Any) -> None:
        self._reception = reception
        self.server = reception.server
        self.socket = connection
        self.remote_addr, self.remote_port = address[:2]
        self.ssl_env: dict[str, Any] = {}
        self.incoming = Incoming(
            self.server.max_request_header_size, self.server.max_request_body_size
        )
        self.rfile = io.BytesIO()
        self.wfile = Writer(connection)
        self.deadline = 0.0
        self.waiting = False
        self.draining = False
        self._said_all = False
        self._shaking_hands = isinstance(connection, ssl.SSLSocket)

    def advance(self) -> int:
        """Take what has come: the epoll event to wait for, or 0 if a request is whole in `rfile`.

        Raises EOFError at the end, OSError, or a `Problem` for what can be no request.
        """
        try:
            if self._shaking_hands:
                self._shake_hands()
            if not self.wfile.send():
                return select.EPOLLOUT
            if self.draining:
                self._part()
                self._receive()
                return select.EPOLLIN
            return self._gather()
        except ssl.SSLWantWriteError:
            return select.EPOLLOUT
        except (BlockingIOError, ssl.SSLWantReadError):
            return select.EPOLLIN

    def _shake_hands(self) -> None:
        try:
            self.socket.do_handshake()
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self.socket = socket.socket(fileno=self.socket.detach())
                self.wfile = Writer(self.socket)
                self._shaking_hands = False
                raise Problem(HTTPStatus.BAD_REQUEST, "here is only HTTPS") from error
            raise
        self._shaking_hands = False
        self.ssl_env = self.server.ssl_adapter.get_environ(self.socket)

    def _part(self) -> None:
        """Tell the client, once, that nothing more will come."""
        if self._said_all:
            return
        if isinstance(self.socket, ssl.SSLSocket):
            with suppress(ssl.SSLWantReadError, ValueError):
                self.socket.unwrap()
        self.socket.shutdown(socket.SHUT_WR)
        self._said_all = True

    def _gather(self) -> int:
        while (request := self.incoming.take()) is None:
            if self.incoming.expects_continue:
                self.incoming.expects_continue = False
                self.socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.incoming.feed(self._receive())
        self.rfile = io.BytesIO(request)
        return 0

    def _receive(self) -> bytes:
        data: bytes = self.socket.recv(_CHUNK)
        if not data:
            raise EOFError
        return data

    @property
    def in_the_middle(self) -> bool:
        """Whether a part of a request has come, and the one before has been answered."""
        return self.incoming.started and not self.draining and not self.wfile.unsent

    def more_to_do(self) -> bool:
        """Whether something is here to be sent, or has been received that no event announces."""
        tls = isinstance(self.socket, ssl.SSLSocket)
        return bool(self.wfile.unsent) or self.incoming.started or tls

    def refuse(self, problem: Problem) -> None:
        """Send an error to a client that may not wait for it."""
        try:
            self.socket.send(refusal(problem))
        except OSError as error:
            log.debug("%s was not told %r: %s", self.remote_addr, problem.detail, error)

    def close(self) -> None:
        """What a worker calls when it has answered for the last time."""
        self._reception.part_with(self)

    def end(self) -> None:
        self.socket.close()


class Gateway(Gateway_10):
    """One that gives the application the connection, for answers that go on as long as it does."""

    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]
        environ: dict[str, Any] = super().get_environ()  # type: ignore[no-untyped-call]
        return environ | {SOCKET: self.req.conn.socket}


def refusal(problem: Problem) -> bytes:
    """A whole response that is an error, after which the connection ends."""
    body = problem.json()
    headers = {
        **EVERY_ANSWER,
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {problem.status.value} {problem.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
