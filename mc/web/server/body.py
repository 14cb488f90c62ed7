"""The body of a request: where it ends, and what is in it (RFC 9112, sections 6 and 7).

Nobody who reads the same bytes is to find another end: what leaves a choice is refused.
"""

import re
from http import HTTPStatus

from mc.web.problems import Problem
from mc.web.server.serving import Limits

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
"""A character of a token: RFC 9110, section 5.6.2."""
MOST_FRAMING = 1 << 12
"""Bytes that a body in chunks may have beside its content, so that tiny chunks stay few."""

_LINE_END = b"\r\n"
# Extensions of a chunk, and the fields of a trailer, mean nothing here; they are dropped.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~]*)?\r\n")
_TRAILER_FIELD = re.compile(rb"%b+:[^\0\r\n]*\r\n" % TOKEN)


class Sized:
    """A body of a length that the head tells."""

    def __init__(self, length: int) -> None:
        self._length = length

    def take(self, data: bytearray) -> bytes | None:
        """Take the body, of which all before has been taken; None while a part is missing."""
        if len(data) < self._length:
            return None
        body = bytes(data[: self._length])
        del data[: self._length]
        return body


class Chunked:
    """A body in chunks, each of which tells its size; of at most so many bytes.

    A chunk is taken when all of it has come, and a line is searched only once, so that a body costs
    the same however it is cut into pieces.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._body = bytearray()
        self._framing = 0
        self._searched = 0
        # Of the chunk that is due; 0 if that is not known yet, or if the last one has come.
        self._size = 0
        self._is_over = False

    def take(self, data: bytearray) -> bytes | None:
        """Take what has come; the whole body, or None while a part of it is missing.

        Raises a `Problem` if it can be none.
        """
        while not self._is_over:
            if not (self._take_chunk(data) if self._size else self._take_size(data)):
                return None
        while (line := self._line(data)) is not None:
            if line == _LINE_END:
                return bytes(self._body)
            if not _TRAILER_FIELD.fullmatch(line):
                raise Problem(HTTPStatus.BAD_REQUEST, "the trailer of the body is malformed")
        return None

    def _take_size(self, data: bytearray) -> bool:
        """Whether the size of the next chunk has come."""
        line = self._line(data)
        if line is None:
            return False
        found = _SIZE.fullmatch(line)
        if not found:
            raise Problem(HTTPStatus.BAD_REQUEST, "the size of a chunk is malformed")
        self._size = int(found[1], 16)
        self._is_over = self._size == 0
        if len(self._body) + self._size > self._most:
            raise _too_long()
        return True

    def _take_chunk(self, data: bytearray) -> bool:
        """Whether all of the chunk has come."""
        end = self._size + len(_LINE_END)
        if len(data) < end:
            return False
        if data[self._size : end] != _LINE_END:
            raise Problem(HTTPStatus.BAD_REQUEST, "a chunk is not as long as it says")
        self._body += data[: self._size]
        del data[:end]
        self._framing += len(_LINE_END)
        self._size = 0
        return True

    def _line(self, data: bytearray) -> bytes | None:
        """The next line and its end, be that right or not; None while a part of it is missing."""
        end = data.find(b"\n", self._searched) + 1
        if self._framing + (end or len(data)) > MOST_FRAMING:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has more than {MOST_FRAMING} bytes beside what is in its chunks",
            )
        if not end:
            self._searched = len(data)
            return None
        line = bytes(data[:end])
        del data[:end]
        self._framing += end
        self._searched = 0
        return line


Body = Sized | Chunked


def body_of(version: str, fields: dict[str, str], limits: Limits) -> Body | None:
    """The body that a request with this head has; None if it has none.

    Raises a `Problem` where its end could be found in two ways (section 6.3), or if it is too long.
    """
    coding = fields.get("transfer-encoding")
    if coding is None:
        length = _length(fields.get("content-length", "0"), limits.body)
        return Sized(length) if length else None
    if version != "HTTP/1.1" or "content-length" in fields:
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            "a Transfer-Encoding is for HTTP/1.1, and not beside a Content-Length",
        )
    if coding.lower() != "chunked":
        raise Problem(HTTPStatus.NOT_IMPLEMENTED, "the only Transfer-Encoding here is chunked")
    return Chunked(limits.body)


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit()):
        raise Problem(HTTPStatus.BAD_REQUEST, "the Content-Length is not a number")
    # Not int() of any text: Python refuses numbers of more than some thousand digits.
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(most)) or int(digits) > most:
        raise _too_long()
    return int(digits)


def _too_long() -> Problem:
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too long")
