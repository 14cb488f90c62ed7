"""Where a request ends: bytes in as they come, whole requests out.

What is ambiguous here is refused, so that nobody who reads the same bytes, a proxy in front or the
HTTP server behind, can find other requests in them (RFC 9112, sections 5, 6.3 and 11.2).
"""

import re
from http import HTTPStatus

from mc.web.problems import Problem

_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"[^\x00-\x1f\x7f]+")
# Without the blanks around the value: to look for them in here would take quadratic time.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00\r\n]*)")
# RFC 9112, section 2.2: an empty line before a request means nothing; many mean no good.
_MOST_EMPTY_LINES = 8
# What may stand once only, or tells who is called, and by whom.
_SINGLE = frozenset(
    b"host content-length authorization origin referer sec-fetch-site sec-purpose purpose x-purpose"
    b" x-moz".split()
)


class Incoming:
    """The bytes of one connection that have come and are not yet served.

    `max_header` and `max_body` are in bytes.
    """

    def __init__(self, max_header: int, max_body: int) -> None:
        self._max_header = max_header
        self._max_body = max_body
        self._bytes = bytearray()
        self._searched = 0
        self._empty_lines = 0
        self._length: int | None = None
        self.expects_continue = False
        """Whether the client waits for `100 Continue` before it sends a body (RFC 9110, 10.1.1)."""

    @property
    def started(self) -> bool:
        """Whether a part of a request is here."""
        return bool(self._bytes)

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def take(self) -> bytes | None:
        """The next request, whole; None while a part of it is missing.

        Raises a `Problem` if it can be none, after which the connection is of no more use.
        """
        if self._length is None:
            self._length = self._find_length()
        if self._length is None or len(self._bytes) < self._length:
            return None
        request = bytes(self._bytes[: self._length])
        del self._bytes[: self._length]
        self._searched, self._empty_lines, self._length = 0, 0, None
        self.expects_continue = False
        return request

    def _find_length(self) -> int | None:
        """How long the request is that the bytes begin with; None before its head is here."""
        while self._bytes.startswith(_LINE_END):
            del self._bytes[:2]
            self._empty_lines += 1
            if self._empty_lines > _MOST_EMPTY_LINES:
                raise Problem(HTTPStatus.BAD_REQUEST, "there is no request in all these lines")
        end = self._bytes.find(_HEAD_END, self._searched)
        self._searched = max(0, len(self._bytes) - len(_HEAD_END) + 1)
        if (len(self._bytes) if end < 0 else end) > self._max_header:
            self._refuse_length()
        if end < 0:
            return None
        fields = _fields(bytes(self._bytes[:end]))
        length = self._body_length(fields)
        self.expects_continue = length > 0 and fields.get(b"expect", b"").lower() == b"100-continue"
        return end + len(_HEAD_END) + length

    def _refuse_length(self) -> None:
        """The answers that CherryPy gives: 414 for a long first line, else 413."""
        if 0 <= self._bytes.find(_LINE_END) <= self._max_header:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the headers are too long")
        raise Problem(HTTPStatus.REQUEST_URI_TOO_LONG, "the request line is too long")

    def _body_length(self, fields: dict[bytes, bytes]) -> int:
        encoding = fields.get(b"transfer-encoding")
        if encoding is not None and encoding.lower() != b"chunked":
            raise Problem(HTTPStatus.NOT_IMPLEMENTED, "there is no such Transfer-Encoding here")
        if encoding is not None:
            raise Problem(HTTPStatus.LENGTH_REQUIRED, "a body needs a Content-Length")
        text = fields.get(b"content-length", b"0")
        if not text.isdigit():
            raise Problem(HTTPStatus.BAD_REQUEST, "the Content-Length is not a number")
        # Not int() of any text: Python refuses numbers of more than some thousand digits.
        if len(text.lstrip(b"0")) > len(str(self._max_body)) or int(text) > self._max_body:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too long")
        return int(text)


def _fields(head: bytes) -> dict[bytes, bytes]:
    """The header fields of a request's head, by their names in lower case."""
    request_line, *lines = head.split(_LINE_END)
    if not _REQUEST_LINE.fullmatch(request_line):
        raise Problem(HTTPStatus.BAD_REQUEST, "the request line holds control characters")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if not found:
            raise Problem(HTTPStatus.BAD_REQUEST, "a header line is malformed")
        name = found[1].lower()
        if name in fields and name in _SINGLE:
            raise Problem(HTTPStatus.BAD_REQUEST, f"{name.decode()} is given twice")
        fields[name] = found[2].strip(b" \t")
    return fields
