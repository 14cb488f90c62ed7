"""Where requests begin and end, and what is in them: bytes in as they come, whole requests out.

What is ambiguous is refused, so that nobody who reads the same bytes, such as a proxy in front, can
find other requests in them (RFC 9112, sections 3, 5 and 11.2; bodies are in `body.py`). What the
service does not read is dropped here: a cookie of another program on the same host, for one.
Nothing takes more than linear time, and all of it is bounded.
"""

import re
from http import HTTPStatus
from typing import NamedTuple

from mc.web.problems import Problem
from mc.web.server.body import TOKEN, Body, body_of
from mc.web.server.serving import Limits

_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_HEAD = b"HEAD "
_REQUEST_LINE = re.compile(rb"(%b{1,32}) ([!-~]+) HTTP/([0-9])\.([0-9])" % TOKEN)
_NAME = re.compile(rb"%b+" % TOKEN)
_PATH = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*+")
_ABSOLUTE = re.compile(r"https?://([^/?]*)", re.I)
# RFC 9112, section 2.2: an empty line before a request means nothing; many mean no good.
_MOST_EMPTY_LINES = 8
# Bytes that may be dropped, since a browser sends the cookies of other programs, up to 64 KiB, to
# every port of their host; and header fields that there may be.
MOST_DROPPED, MOST_FIELDS = 1 << 17, 100
# The fields that the service reads: those that may stand once only, and lists.
_SINGLE = frozenset(
    b"host content-length transfer-encoding authorization origin referer sec-fetch-site sec-purpose"
    b" purpose x-purpose x-moz".split()
)
_LISTS = frozenset(b"accept connection expect user-agent x-forwarded-for x-forwarded-proto".split())
KNOWN_FIELDS = _SINGLE | _LISTS


class Request(NamedTuple):
    """A request, all of which has come.

    target: path and query, as they came, still percent-encoded. authority: the host and port, where
    the target was a whole URI. fields: those that are known, by their names in lower case.
    """

    method: str
    target: str
    authority: str | None
    version: str
    fields: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def keeps_connection(self) -> bool:
        """Whether the client may send another request (RFC 9112, section 9.3)."""
        said = self.fields.get("connection", "").lower()
        options = [option.strip() for option in said.split(",")]
        if "close" in options:
            return False
        return self.version == "HTTP/1.1" or "keep-alive" in options


class Incoming:
    """The bytes of one connection that have come and are not yet served."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = bytearray()
        self._searched = 0
        self._empty_lines = 0
        # The request whose head is here, and the body that is still to come, if there is one.
        self._begun: Request | None = None
        self._body: Body | None = None
        self._is_head = False
        self.expects_continue = False
        """Whether the client waits for `100 Continue` before it sends a body (RFC 9110, 10.1.1)."""

    @property
    def is_head(self) -> bool:
        """Whether the request that is coming in, or came in last, is one by HEAD."""
        return self._is_head or (self._begun is None and self._bytes.startswith(_HEAD))

    @property
    def started(self) -> bool:
        """Whether a part of a request is here."""
        return bool(self._bytes) or self._begun is not None

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def take(self) -> Request | None:
        """The next request, whole; None while a part of it is missing.

        Raises a `Problem` if it can be none, after which the connection is of no more use.
        """
        if self._begun is None:
            self._begun = self._take_head()
        if self._begun is None:
            return None
        request = self._begun
        if self._body is not None:
            body = self._body.take(self._bytes)
            if body is None:
                return None
            # From now on it has a length, however it came: RFC 9112, section 7.1.3.
            length = {"content-length": str(len(body))}
            request = request._replace(fields=request.fields | length, body=body)
        self._begun = self._body = None
        self._searched, self._empty_lines, self.expects_continue = 0, 0, False
        return request

    def _take_head(self) -> Request | None:
        """The request that the bytes begin with, less its body; None before its head is here."""
        while self._bytes.startswith(_LINE_END):
            del self._bytes[:2]
            self._empty_lines += 1
            if self._empty_lines > _MOST_EMPTY_LINES:
                raise Problem(HTTPStatus.BAD_REQUEST, "there is no request in all these lines")
        end = self._bytes.find(_HEAD_END, self._searched)
        self._searched = max(0, len(self._bytes) - len(_HEAD_END) + 1)
        so_far = len(self._bytes) if end < 0 else end
        if so_far > self._limits.head:
            self._check_line()
        if so_far > MOST_DROPPED + 2 * self._limits.head:
            raise _too_large("the headers are too long")
        if end < 0:
            return None
        head = bytes(self._bytes[: end + 2])
        self._is_head = head.startswith(_HEAD)
        del self._bytes[: end + len(_HEAD_END)]
        request = self._request(head)
        self._body = body_of(request.version, request.fields, self._limits)
        said = (request.version, request.fields.get("expect", "").lower())
        self.expects_continue = self._body is not None and said == ("HTTP/1.1", "100-continue")
        return request

    def _check_line(self) -> None:
        """Not to read on for a request line that will be refused."""
        if self._bytes.find(_LINE_END, 0, self._limits.head + len(_LINE_END)) < 0:
            raise Problem(HTTPStatus.REQUEST_URI_TOO_LONG, "the request line is too long")

    def _request(self, head: bytes) -> Request:
        line_end = head.index(_LINE_END) + 2
        found = _REQUEST_LINE.fullmatch(head, 0, line_end - 2)
        if not found:
            raise Problem(HTTPStatus.BAD_REQUEST, _what_is_wrong(head[: line_end - 2]))
        if found[3] != b"1" or found[4] not in b"01":
            raise Problem(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.0 and 1.1 are spoken here")
        version = f"HTTP/1.{found[4].decode()}"
        fields = self._fields(head, line_end)
        if "host" not in fields and version == "HTTP/1.1":
            raise Problem(HTTPStatus.BAD_REQUEST, "HTTP/1.1 needs a Host")
        method = found[1].decode()
        target, authority = self._target(method, found[2].decode())
        return Request(method, target, authority, version, fields)

    def _target(self, method: str, target: str) -> tuple[str, str | None]:
        if target == "*" and method == "OPTIONS":
            return target, None
        try:
            target, authority = taken_apart(target)
        except ValueError as error:
            raise Problem(HTTPStatus.BAD_REQUEST, f"the request line: {error}") from error
        path = target.partition("?")[0]
        if not _PATH.fullmatch(path):
            raise Problem(
                HTTPStatus.BAD_REQUEST, "a % in a path is followed by two hexadecimal digits"
            )
        if len(parts_of(path)) > self._limits.segments:
            raise Problem(HTTPStatus.NOT_FOUND, "there is nothing at this URL")
        return target, authority

    def _fields(self, head: bytes, start: int) -> dict[str, str]:
        """The known header fields in a head, each line of which ends with a line end."""
        lines = head[start:].split(_LINE_END)
        lines.pop()
        if len(lines) > MOST_FIELDS:
            raise _too_large(f"there are more than {MOST_FIELDS} header fields")
        if b"\0" in head or any(head.count(end, start) != len(lines) for end in (b"\r", b"\n")):
            raise _malformed()
        fields: dict[bytes, bytes] = {}
        length = 0
        for line in lines:
            name, colon, value = line.partition(b":")
            name = name.lower()
            if not colon or not (name in KNOWN_FIELDS or _NAME.fullmatch(name)):
                raise _malformed()
            if name not in KNOWN_FIELDS:
                continue
            length += len(line)
            if name in fields:
                if name in _SINGLE:
                    raise Problem(HTTPStatus.BAD_REQUEST, f"{name.decode()} is given twice")
                value = fields[name] + b", " + value.strip(b" \t")
            fields[name] = value.strip(b" \t")
        if length > self._limits.head:
            raise _too_large(f"the header fields have more than {self._limits.head} bytes")
        return {name.decode(): value.decode("latin-1") for name, value in fields.items()}


def taken_apart(target: str) -> tuple[str, str | None]:
    """Path with query, and authority if there is one, of a target (RFC 9112, section 3.2).

    >>> taken_apart("/a?b"), taken_apart("http://host:1?b")
    (('/a?b', None), ('/?b', 'host:1'))

    Raises ValueError if it is neither a path nor a URL of HTTP.
    """
    if "#" in target:
        raise ValueError("a fragment is not for servers")
    if target.startswith("/"):
        return target, None
    found = _ABSOLUTE.match(target)
    if not found:
        raise ValueError("it holds no URL of this host")
    rest = target[found.end() :]
    return rest if rest.startswith("/") else f"/{rest}", found[1]


def parts_of(path: str) -> list[str]:
    """The parts of a path, still percent-encoded. A slash too many separates nothing.

    >>> parts_of("/service//a%2Fb/boot/"), parts_of("//")
    (['service', 'a%2Fb', 'boot'], [])
    """
    return [*filter(None, path.split("/"))]


def _what_is_wrong(line: bytes) -> str:
    if not line.isascii():
        return "the request line holds bytes beyond ASCII, which a URL has percent-encoded"
    return "the request line is malformed"


def _malformed() -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "a header line is malformed")


def _too_large(detail: str) -> Problem:
    """RFC 6585, section 5."""
    return Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
