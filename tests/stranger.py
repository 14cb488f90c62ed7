"""What a stranger may send to keep the daemon busy, and what each request costs it."""

import time
from collections.abc import Iterator

from mc.settings import Settings
from mc.web.server.body import MOST_FRAMING
from mc.web.server.incoming import KNOWN_FIELDS, MOST_DROPPED, MOST_FIELDS
from tests.daemon import Daemon
from tests.hostile import TEMPLATES
from tests.wire import Response, Wire

HEAD, BODY = Settings().max_header, Settings().max_body
PLAIN = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
STATUS = b"GET /service/vm/state_controller/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Known fields may fill what is allowed, less the Host; unknown ones are to be dropped.
KNOWN = sorted(name.decode() for name in KNOWN_FIELDS)
UNKNOWN = [
    "Accept-Charset", "Accept-Encoding", "Accept-Language", "Cache-Control", "CGI-Authorization",
    "Content-Disposition", "Content-Encoding", "Content-Range", "Content-Type", "Cookie",
    "Cookie2", "Date", "Forwarded", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
    "If-Unmodified-Since", "Keep-Alive", "Last-Event-ID", "Max-Forwards", "Pragma",
    "Proxy-Authorization", "Range", "Remote-Addr", "Remote-Host", "Remote-User", "Set-Cookie",
    "TE", "Trailer", "Upgrade", "Via", "X-Forwarded-Host", "X-HTTP-Method-Override", "X-Real-IP",
    "X-Anything", "X_Y",
]  # fmt: skip
# Each is repeated until it fills what is allowed.
UNITS = [
    b",", b'"', b"'", b"\\", b";", b"=", b" ", b"\t", b"/", b"/a", b"/.", b".", b":", b"-", b"0",
    b"9", b"a", b"%", b"%41", b"%ff", b"&", b"&a", b"a=&", b"a=b&", b"+", b"?", b"#", b"@", b"[",
    b"]", b"[::1]", b"(", b")", b"<", b"{", b"*", b"\xff", b"\xc3\xbc", b"\xe2\x80\xae", b"\x01",
    b"\x7f", b"=?", b"=?utf-8?q?", b"=?a?q?=41?= ", b"=?a?b?", b'a="\\', b'a="', b"a=b,",
    b'a="b",', b'"\\",', b", ", b" ,", b",,;", b";q=", b";q=1", b"a;q=0.5,", b"text/html,",
    b"*/*;q=1,", b"1,1", b"1.1.1.1,", b"bytes=0-0,", b"0-0,", b"::,", b"a.", b"Digest ", b"Basic ",
    b"YWRt", b"http://", b"close,", b"chunked,", b"{\"a\":", b"{}", b"\"\\ud800", b"1e9", b"null,",
]  # fmt: skip
DIGEST = b'Digest username="admin", realm="libvirt_mc", '
PREFIXES = {
    "cookie": [b'a="'],
    "authorization": [
        b"Digest ", b'Digest username="', b"Basic ", DIGEST + b'uri="/',
    ],
    "content-disposition": [b"form-data; "],
    "content-type": [b"multipart/form-data; boundary="],
    "accept": [b"text/html;q="],
    "host": [b"localhost", b"[", b"a@"],
    "content-length": [b"0"],
    "origin": [b"http://", b"http://["],
    "referer": [b"http://"],
    "user-agent": [b"Mozilla/"],
}  # fmt: skip


def filled(unit: bytes, size: int) -> bytes:
    return (unit * (size // len(unit) + 1))[:size]


def headers() -> Iterator[bytes]:
    """Every header field that CherryPy or we might read, full of every kind of nonsense."""
    for name in (*KNOWN, *UNKNOWN):
        is_known = name in KNOWN
        room = HEAD - 60 if is_known else MOST_DROPPED
        host = b"" if name == "host" else b"Host: localhost\r\n"
        prefixes = PREFIXES.get(name.lower(), [])
        # Whatever stands in what is dropped cannot matter; all the same, some of it.
        for prefix in (b"", *prefixes):
            for unit in UNITS if is_known or prefixes else UNITS[::4]:
                value = filled(unit, room - len(name) - len(prefix))
                field = b"%b: %b%b\r\n" % (name.encode(), prefix, value)
                yield b"GET /openapi.json HTTP/1.1\r\n" + host + field + b"\r\n"
                if name == "authorization":
                    yield b"GET / HTTP/1.1\r\n" + host + field[:2048] + b"\r\n\r\n"
                if name.lower() in ("cookie", "content-type"):
                    yield b"PUT /service/vm/boot HTTP/1.1\r\n" + host + field + b"\r\n"


def claims() -> Iterator[bytes]:
    """Proofs that are looked at, and found wrong: the answer to each takes its time."""
    for unit in (b",", b'"', b"\\", b"a=b,", b'a="b",', b"=?a?q?=41?= "):
        claim = DIGEST + b'nonce="1:a", uri="/openapi.json", response=b,'
        field = b"Authorization: " + claim + filled(unit, 1900)
        yield b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n" + field + b"\r\n\r\n"


def many_headers() -> Iterator[bytes]:
    for name in ("Accept", "X-Forwarded-For", "Connection", "User-Agent", "Cookie", "X-A"):
        for number in (MOST_FIELDS - 2, MOST_FIELDS + 1, 20_000):
            lines = b"%b: a\r\n" % name.encode() * number
            yield b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n"
    yield b"GET /openapi.json HTTP/1.1\r\n" + b":" * MOST_DROPPED + b"\r\n\r\n"
    yield b"GET /openapi.json HTTP/1.1\r\n" + b"a:" * (MOST_DROPPED // 2) + b"\r\n\r\n"
    yield b"GET /openapi.json HTTP/1.1\r\n" + b"\r" * MOST_DROPPED + b"\r\n\r\n"


def lines() -> Iterator[bytes]:
    """Request lines: in each URL that there is, in its path and query, and in the rest."""
    head = b"\r\nHost: localhost\r\n\r\n"
    targets = {_to_fill(template.encode()) for template in TEMPLATES}
    for unit in UNITS:
        if unit.isspace():
            continue
        for target in sorted(targets):
            parts = target.count(b"{")
            room = (HEAD - len(target) - 14) // max(parts, 1)
            if parts:
                path = target.replace(b"{host}", filled(unit, room))
                path = path.replace(b"{machine}", filled(unit, room))
                yield b"GET " + path.replace(b"{verb}", filled(unit, room)) + b" HTTP/1.1" + head
            else:
                yield b"GET " + target + b"?" + filled(unit, room - 1) + b" HTTP/1.1" + head
        size = HEAD - 14
        yield b"GET " + filled(unit, size) + b" HTTP/1.1" + head
        yield b"GET /" + filled(unit, size - 1) + b" HTTP/1.1" + head
        yield b"GET http://" + filled(unit, size - 7) + b" HTTP/1.1" + head
        yield (
            b"GET /service/vm/state_controller/power_off?"
            + filled(unit, size - 44)
            + b" HTTP/1.1"
            + head
        )
        yield filled(unit, size) + b" / HTTP/1.1" + head
        yield b"GET / " + filled(unit, size) + head
        yield b"GET / HTTP/1." + filled(unit, size) + head


def _to_fill(template: bytes) -> bytes:
    """Below a host, what comes behind the host's name is as it is without one."""
    if b"{host}" not in template:
        return template
    return template.replace(b"{machine}", b"vm").replace(b"{verb}", b"nmi")


def bodies() -> Iterator[bytes]:
    for unit in UNITS:
        for prefix in (b"", b"[", b'{"device": ', b'{"device": "', b'{"', b'{"wait": '):
            body = prefix + filled(unit, BODY - len(prefix))
            for request in (
                b"PUT /service/vm/boot",
                b"POST /service/vm/state_controller/power_off",
            ):
                length = b"\r\nContent-Length: %d\r\n\r\n" % len(body)
                yield request + b" HTTP/1.1\r\nHost: localhost" + length + body
    yield from chunked_bodies()
    deep = b'{"device": ' + b"[" * 900 + b"]" * 900 + b"}"
    length = b"\r\nContent-Length: %d\r\n\r\n" % len(deep)
    yield b"PUT /service/vm/boot HTTP/1.1\r\nHost: localhost" + length + deep


def chunked_bodies() -> Iterator[bytes]:
    """In chunks, most of which are tiny, or with much beside them."""
    end = b"0\r\n\r\n"
    whole = b"%x\r\n%b\r\n" % (BODY, filled(b'{"a": 1, ', BODY))
    head = b"PUT /service/vm/boot HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    fit = MOST_FRAMING - 100
    for size in (fit, BODY):
        yield head + filled(b"1\r\n[\r\n", size - size % 6) + end
        yield head + filled(b"1;a\r\n[\r\n", size - size % 8) + end
        yield head + b"1\r\n \r\n" * (size // 12) + whole + end
        for unit in UNITS:
            yield head + b"2;" + filled(unit, size) + b"\r\n{}\r\n" + end
            yield head + b"0\r\nA: " + filled(unit, size) + b"\r\n\r\n"
            # Whatever size that tells, more than it has come.
            yield head + filled(unit, size) + 4 * end
    for line in (b"a:\r\n", b":\r\n", b"a\r\n", b"\n", b"\r"):
        yield head + b"0\r\n" + filled(line, fit - fit % len(line)) + b"\r\n"


def processor_time(daemon: Daemon) -> int:
    """Nanoseconds of processor that all threads of the daemon have had so far."""
    # Its clock, by clock_getcpuclockid(3), tells of threads that have ended as well.
    return time.clock_gettime_ns(~daemon.pid << 3 | 2)


class Meter:
    """Sends requests one after the other, and tells what the daemon did for each."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def cost(self, request: bytes, times: int = 1) -> float:
        """Nanoseconds of processor for one such request, on a connection of its own."""
        return sum(self.send(request)[1] for _ in range(times)) / times

    def send(self, request: bytes) -> tuple[Response, int]:
        """The answer, and its cost."""
        before = processor_time(self._daemon)
        response = self.answer(request)
        return response, processor_time(self._daemon) - before

    def answer(self, request: bytes) -> Response:
        with Wire(self._daemon.port) as wire:
            wire.send(request)
            response = wire.response()
        assert response is not None, request[:200]
        return response
