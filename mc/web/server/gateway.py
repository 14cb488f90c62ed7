"""From a request to the application and back, by PEP 3333."""

import io
import logging
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication, WSGIEnvironment

from mc.web.problems import unforeseen
from mc.web.server.connection import Connection, Gone
from mc.web.server.headers import head_of
from mc.web.server.incoming import KNOWN_FIELDS, Request
from mc.web.server.serving import Serving

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

log = logging.getLogger(__name__)

CONNECTION = "libvirt_http_mc.connection"
"""Under this name the environment holds the request's `Connection`."""
AUTHORITY = "libvirt_http_mc.authority"
"""Under this one the host and port in a target that is a whole URI, if it is one."""

Headers = list[tuple[str, str]]

# What has been dealt with here, and is of no meaning behind.
_HOP = frozenset(
    ("connection", "expect", "transfer-encoding", "x-forwarded-for", "x-forwarded-proto")
)
_VARIABLES = {
    field: "HTTP_" + field.upper().replace("-", "_")
    for name in KNOWN_FIELDS
    if (field := name.decode()) not in _HOP
} | {"content-length": "CONTENT_LENGTH"}
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Gateway:
    """Has an application answer requests.

    A connection is written to, and left to whoever called: it may have bytes to be sent still. A
    client gets its seconds to take each part of an answer that goes on.
    """

    def __init__(
        self,
        application: WSGIApplication,
        address: tuple[str, int],
        scheme: str,
        serving: Serving,
    ) -> None:
        self._application = application
        self._scheme = scheme
        self._proxies = serving.proxies
        self._seconds = serving.seconds
        self._common: WSGIEnvironment = {
            "SERVER_NAME": address[0],
            "SERVER_PORT": str(address[1]),
            "SCRIPT_NAME": "",
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }

    def answer(self, connection: Connection, request: Request) -> None:
        """Answer a request that came over this connection; whatever breaks, the answer is ours."""
        answer = Answer(connection, request, self._seconds)
        try:
            self._run(answer, self._environment(connection, request))
        except Gone as error:
            log.debug("%s did not get its answer: %s", connection.address, error)
        # Whatever it is: a thread that ended by it would be one less for all the others.
        except BaseException as error:
            log.error("the application failed", exc_info=error)
            answer.fail()

    def _run(self, answer: "Answer", environment: WSGIEnvironment) -> None:
        parts = self._application(environment, answer.start)
        try:
            for part in parts:
                answer.write(part)
            answer.finish()
        finally:
            if hasattr(parts, "close"):
                parts.close()

    def _environment(self, connection: Connection, request: Request) -> WSGIEnvironment:
        fields = request.fields
        environment = {
            **self._common,
            "REQUEST_METHOD": request.method,
            "REQUEST_URI": request.target,
            "PATH_INFO": _decoded(request.path),
            "QUERY_STRING": request.query,
            "SERVER_PROTOCOL": request.version,
            "REMOTE_ADDR": connection.address,
            "REMOTE_PORT": str(connection.port),
            "wsgi.url_scheme": self._scheme,
            "wsgi.input": io.BytesIO(request.body),
            CONNECTION: connection,
        }
        for name, value in fields.items():
            if name in _VARIABLES:
                environment[_VARIABLES[name]] = value
        if request.authority is not None:
            environment[AUTHORITY] = request.authority
        if connection.shared:
            self._tell_of_client(environment, fields)
        return environment

    def _tell_of_client(self, environment: WSGIEnvironment, fields: dict[str, str]) -> None:
        """Who asks a trusted proxy, and how, in place of the proxy itself."""
        proxy = environment["REMOTE_ADDR"]
        client = self._proxies.client(proxy, fields.get("x-forwarded-for", ""))
        scheme = self._proxies.scheme(proxy, fields.get("x-forwarded-proto", ""))
        environment["REMOTE_ADDR"] = client
        environment["wsgi.url_scheme"] = scheme or self._scheme


def _decoded(path: str) -> str:
    """A path less its percent-encoding: bytes, which WSGI carries as Latin-1 text (PEP 3333)."""
    return unquote_to_bytes(path).decode("latin-1") if "%" in path else path


class Answer:
    """A response on its way to the client.

    One that says its length is sent as a whole when it is finished: until then an error may take
    its place. Any other is sent part by part.
    """

    def __init__(self, connection: Connection, request: Request, seconds: float) -> None:
        self._connection = connection
        self._request = request
        self._seconds = seconds
        self._head: bytes | None = None
        self._parts: list[bytes] = []
        self._length: int | None = None
        self._is_chunked = False
        self._is_begun = False

    def start(
        self, status: str, headers: Headers, exc_info: "OptExcInfo | None" = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's `start_response`."""
        if exc_info and exc_info[1] and self._is_begun:
            raise exc_info[1]
        if self._head is not None and not exc_info:
            raise RuntimeError("start_response was called twice")
        self._parts.clear()
        more = []
        self._length = self._declared(int(status[:3]), dict(headers).get("Content-Length"))
        self._is_chunked = self._length is None and self._request.version == "HTTP/1.1"
        if self._is_chunked:
            more.append(("Transfer-Encoding", "chunked"))
        if not self._request.keeps_connection or (self._length is None and not self._is_chunked):
            self._connection.last = True
            more.append(("Connection", "close"))
        elif self._request.version == "HTTP/1.0":
            more.append(("Connection", "keep-alive"))
        self._head = head_of(status, [*headers, *more])
        return self.write

    def _declared(self, status: int, length: str | None) -> int | None:
        """How long the body is; None if nobody knows."""
        if self._request.method == "HEAD" or status in _WITHOUT_BODY:
            return 0
        return None if length is None else int(length)

    def write(self, part: bytes) -> None:
        """Add to the body. Raises `Gone` if the client does not take it."""
        if self._head is None:
            raise RuntimeError("start_response was not called")
        if self._length is None:
            self._send_on(part)
        else:
            self._parts.append(part)

    def _send_on(self, part: bytes) -> None:
        if not self._is_begun:
            self._connection.write(self._head or b"")
            self._is_begun = True
        if part:
            self._connection.write(
                b"%x\r\n%b\r\n" % (len(part), part) if self._is_chunked else part
            )
        self._connection.finish(self._seconds)

    def finish(self) -> None:
        """Have the end sent."""
        if self._head is None:
            raise RuntimeError("start_response was not called")
        if self._length is None:
            self._send_on(b"")
            if self._is_chunked:
                self._connection.write(b"0\r\n\r\n")
        else:
            body = b"".join(self._parts)
            if len(body) != self._length:
                raise RuntimeError(f"{len(body)} bytes of {self._length} were written")
            self._connection.write(self._head + body)
            self._is_begun = True
        self._connection.push()

    def fail(self) -> None:
        """Answer that it failed; where it has begun already, break it off."""
        if self._is_begun:
            self._connection.give_up()
        else:
            self._connection.refuse(unforeseen())
