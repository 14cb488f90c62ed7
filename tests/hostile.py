"""Requests of every shape for the tests, good and bad, and what each may cause.

They are bytes, as `tests/wire.py` sends them. `Request.explains` is the URL table, written down
once more as far as it acts.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, product
from typing import cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mc.web.routes import routes
from mc.web.service.controller import Controller
from tests.hypervisor import uuid_of

# The machine that only bodies, headers, parameters and the names of others mention.
VICTIM = "victim"
NAMES = ["vm", "off", "a b", "it's", 'q"uote', "; destroy victim", "--help", "5", "#1", "früh 测试",
         "tab\there", "$(reboot)", "`id`", "vm ", VICTIM]  # fmt: skip
MACHINES = [(name, ("running", "shut off", "paused")[n % 3]) for n, name in enumerate(NAMES)]
UUIDS = {name.encode(): uuid_of(number) for number, name in enumerate(NAMES)}
ROUTES = routes(cast(Controller, None))
TEMPLATES = [route.template for route in ROUTES]
# The only host that there is.
LOCAL = b"local"


def _paths(templates: Iterable[str]) -> re.Pattern[bytes]:
    """Matches a path by one of these templates, whatever stands for a variable."""
    patterns = [re.sub(r"\\{\w+\\}", "[^/?]+", re.escape(template)) for template in templates]
    return re.compile("|".join(patterns).encode())


PUBLIC = _paths(route.template for route in ROUTES if route.resource.public)
# Of these there may be too many at once: 503.
STREAMS = _paths(
    route.template
    for route in ROUTES
    if "GET" in route.resource.methods()
    and route.resource.operation("GET").media_type == "text/event-stream"
)

METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"get"]

# Starting a machine may make a one-time boot of it.
START = {"start", "define", "create"}
SET = {"define", "managedsave-remove"}
EXPLAINED: dict[bytes, set[str]] = {
    b"cyclepower": {"shutdown", "destroy", *START},
    b"power_on": {"resume", "dompmwakeup", "destroy", *START},
    b"power_off": {"shutdown", "destroy"},
    b"force_off": {"destroy"},
    b"power_cycle": {"destroy", *START},
    b"reboot": {"reboot"},
    b"force_reset": {"reset", "destroy", *START},
    b"force_reboot": {"reset", "destroy", *START},
    b"nmi": {"inject-nmi"},
    b"pxeboot": {"shutdown", "destroy", *START, *SET},
    b"diskboot": {"shutdown", "destroy", *START, *SET},
    b"defaultboot": {"shutdown", "destroy", *START, *SET},
}

NASTY = [
    b"'", b'"', b";", b"|", b"&", b"#", b"\\", b"%", b"$(destroy victim)", b"`destroy victim`",
    b"..", b".", b"../", b"../../service/victim", b"/", b"?", b" ", b"\0", b"\t", b"\r", b"\n",
    b"\r\n", b"\r\nX-Injected: 1\r\n", b"\r\n\r\nGET /service/victim/force_reset HTTP/1.1\r\n",
    b"; destroy victim", b"'; destroy victim; echo '", b"\ndestroy victim\n", b"--help",
    b"\x01\xa3destroy victim #", b"\x16", b"\x1b[31m", b"\x7f", b"\x80", b"\xff", b"\xe2\x80\xa8",
    b"\xc2\x85", b"echo @''1;", b"@''1", b"virsh # ", b"error: ", b"%2f", b"%00", b"%0d%0a", b"%zz",
    b"--domain", b"-1", b"__class__", b"{machine}", b"machine", b"x" * 5000,
    b"=?utf-8?q?=0a?=", b"null", b"NaN",
]  # fmt: skip
SMUGGLED = b"GET /service/victim/force_reset HTTP/1.1\r\nHost: localhost\r\n\r\n"
FOREIGN = [
    (b"Host", b"evil.example"), (b"Origin", b"http://evil.example"), (b"Origin", b"null"),
    (b"Sec-Fetch-Site", b"cross-site"), (b"Sec-Fetch-Site", b"same-site"),
    (b"Sec-Purpose", b"prefetch"), (b"Referer", b"http://evil.example/page"),
]  # fmt: skip
HOST = (b"Host", b"localhost")
HEADERS = [
    (b"Accept", b"text/html"), (b"Accept", b"*/*"), (b"Accept", b"\xff"), (b"Connection", b"close"),
    (b"Connection", b"upgrade"), (b"Upgrade", b"websocket"), (b"Content-Type", b"text/xml"),
    (b"Content-Type", b"multipart/form-data; boundary=x"), (b"Expect", b"100-continue"),
    (b"Authorization", b'Digest username="a", realm="b", nonce="c", uri="/", response="d"'),
    (b"Authorization", b"Basic !!!"), (b"Authorization", b"Digest"), (b"Authorization", b""),
    (b"Cookie", b"a=b; c"), (b"Range", b"bytes=0-1"), (b"If-None-Match", b"*"),
    (b"If-Modified-Since", b"never"), (b"X-HTTP-Method-Override", b"DELETE"),
    (b"X-Forwarded-Host", b"evil.example"), (b"Content-Encoding", b"gzip"), (b"TE", b"trailers"),
    (b"Last-Event-ID", b"x"), (b"Sec-Fetch-Site", b"none"),
]  # fmt: skip


CREDENTIALS = [
    b"", b"Basic ", b"Basic YWRtaW46", b"Digest ", b"Digest realm=", b"Bearer ", b"Negotiate ",
    b'Digest username="admin", realm="libvirt_mc", uri="/", response=',
    b'Digest username="admin", realm="libvirt_mc", qop=auth, cnonce="", nc=00000001, nonce=',
]  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A request as it goes out; `explains` are the virsh commands that it may cause."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    # What stands in for `Content-Length: N`.
    framing: bytes | None = None
    foreign: bool = False

    @property
    def data(self) -> bytes:
        lines = [b"%s %s HTTP/1.1" % (self.method, self.target)]
        lines += [b"%s: %s" % header for header in self.headers]
        if self.framing is not None:
            lines.append(self.framing)
        elif self.body:
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0].removeprefix(b"http://localhost")

    @property
    def plain_path(self) -> bytes:
        """The path with no slash too many."""
        return b"/" + b"/".join(filter(None, self.path.split(b"/")))

    def explains(self) -> set[tuple[str, str]]:
        """Virsh commands and the machines to give them to; a `define` names no machine."""
        segments = [unquote_to_bytes(segment) for segment in self.path.split(b"/") if segment]
        if segments[:2] == [b"hosts", LOCAL]:
            segments = segments[2:]
        if self.foreign or len(segments) < 3 or segments[0] != b"service":
            return set()
        commands: set[str] = set()
        if self.method in (b"GET", b"POST"):
            if segments[2:3] == [b"state_controller"] and len(segments) == 4:
                commands = EXPLAINED.get(segments[3], set())
            elif segments[2:] == [b"force_reset"]:
                commands = EXPLAINED[b"force_reset"]
        elif self.method == b"PUT" and segments[2:] == [b"boot"]:
            commands = SET
        uuid = UUIDS.get(segments[1], segments[1].decode("latin-1").lower())
        return {(command, uuid) for command in commands}


nasty = st.one_of(
    st.sampled_from(NASTY),
    st.lists(st.sampled_from(NASTY), min_size=2, max_size=3).map(b"".join),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=8),
)
names = st.sampled_from([name.encode() for name in NAMES if name != VICTIM])
references = st.one_of(names, names, names.map(lambda name: UUIDS[name].encode()), nasty)
hosts = st.one_of(st.just(LOCAL), st.just(LOCAL), st.just(LOCAL), nasty)
words = st.sampled_from(
    [LOCAL, *(segment.encode() for url in TEMPLATES for segment in url.split("/"))]
)


def encoded(segment: bytes) -> bytes:
    return quote_from_bytes(segment, safe=b"").encode()


def _bare(segment: bytes) -> bytes:
    """As few escapes as leave the request line one."""
    return b"".join(
        b"%%%02X" % byte if byte < 33 or byte in b"/?#%\x7f" else bytes([byte]) for byte in segment
    )


spellings = st.sampled_from([encoded, encoded, _bare])


@st.composite
def paths(draw: DrawFn) -> bytes:
    """The path of a URL that there is, or of one that there is not."""
    spell = draw(spellings)
    if draw(st.integers(0, 3)):
        template = draw(st.sampled_from(TEMPLATES)).encode()
        path = template.replace(b"{host}", spell(draw(hosts)))
        path = path.replace(b"{machine}", spell(draw(references)))
        return path.replace(b"{verb}", spell(draw(nasty)))
    segments = draw(st.lists(st.one_of(words, references), max_size=5))
    return b"/" + b"/".join(map(spell, segments)) + draw(slashes)


slashes = st.sampled_from([b"", b"/", b"//"])


parameters = st.sampled_from([b"wait", b"force", b"grace", b"once", b"discard_saved", b"device"])
values = st.sampled_from([b"0", b"0.5", b"600", b"true", b"false", b"pxe", b"disk", b"default"])


@st.composite
def queries(draw: DrawFn) -> bytes:
    spell = draw(spellings)
    pairs = draw(
        st.lists(st.tuples(parameters | nasty, st.one_of(values, values, nasty)), max_size=3)
    )
    return b"?" * bool(pairs) + b"&".join(
        spell(name) + b"=" + spell(value) for name, value in pairs
    )


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
bodies = st.one_of(
    st.just(b""),
    st.dictionaries(
        parameters.map(bytes.decode),
        st.one_of(
            values.map(bytes.decode), st.booleans(), st.sampled_from([0, 0.5, 600]), json_values
        ),
        max_size=2,
    ).map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: json.dumps(value).encode()),
    nasty,
    st.just(SMUGGLED),
)
methods = st.one_of(
    st.sampled_from([b"GET", b"GET", b"GET", b"POST", b"PUT"]),
    st.sampled_from(
        [b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"TRACE", b"CONNECT", b"BREW", b"get"]
    ),
)


@st.composite
def requests(draw: DrawFn) -> Request:
    """A request whose end can be found, with anything in it."""
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=2))
    value = draw(nasty).translate(None, b"\r\n\0").strip()
    headers.append((draw(st.sampled_from([b"X-Any", b"Accept", b"User-Agent"])), value))
    authority = draw(st.sampled_from([b"", b"", b"", b"http://localhost"]))
    path = draw(paths()).replace(b"/", draw(st.sampled_from([b"/", b"/", b"//"])))
    target = authority + path + draw(queries())
    body = draw(bodies)
    # A body of either kind; none has an end that is not marked.
    chunked = draw(chunks(body)) if body and draw(st.integers(0, 2)) == 0 else None
    framing = None if chunked is None else b"Transfer-Encoding: chunked"
    return Request(draw(methods), target, [HOST, *headers], chunked or body, framing)


@st.composite
def chunks(draw: DrawFn, body: bytes) -> bytes:
    """A body in chunks, with what may stand beside its content."""
    size = draw(st.integers(max(1, len(body) // 50), len(body)))
    extension = draw(st.sampled_from([b"", b"", b";a=b", b' ; a="b;c"']))
    sent = b""
    for start in range(0, len(body), size):
        part = body[start : start + size]
        sent += b"%x%b\r\n%b\r\n" % (len(part), extension, part)
    return sent + b"0%b\r\n" % extension + draw(trailers) + b"\r\n"


trailers = st.sampled_from([b"", b"", b"Host: evil.example\r\nContent-Length: 66\r\n"])


# None that declares less than the body that follows: the rest would rightly be a request.
framings = st.sampled_from(
    [b"Content-Length: " + text for text in (b"", b"-1", b"+5", b"0x5", b"5_0", b"5 5", b"\xb2")]
    + [b"Content-Length: %d" % length for length in (10_000, 10**8, 10**30)]
    + [b"Content-Length: 0\r\nContent-Length: 66", b"Content-Length: 66\r\nContent-Length: 0"]
    + [b"Content-Length : 66", b"Content-Length: 66\r\n 0", b"Content-Length:\r\n 66"]
    + [b"Transfer-Encoding: " + text for text in (b"gzip", b"identity", b"\x0bchunked")]
    + [b"Transfer-Encoding: chunked\r\nContent-Length: 66", b"Transfer-Encoding: gzip, chunked"]
    + [b"Content-Length: 66\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked"]
    + [b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", b"Transfer-Encoding : chunked"]
)
# Each holds a request if only one thing about it is read in another way.
bad_chunks = st.sampled_from(
    [
        size + b"\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"
        for size in (b"0x42", b"+42", b"42 ", b"4_2", b"")
    ]
    + [b"42\n" + SMUGGLED + b"\r\n0\r\n\r\n", b"42;\n" + SMUGGLED + b"\r\n0\r\n\r\n"]
    + [b"2\r\n" + SMUGGLED, b"2\r\nabcd" + SMUGGLED, b"2\r\nab\n\n0\r\n\r\n" + SMUGGLED]
    + [
        b"0\r\n" + SMUGGLED,
        b"0\r\nX: y\n\r\n" + SMUGGLED,
        b"0\r\n\n" + SMUGGLED,
        b"0\n\n" + SMUGGLED,
    ]
    + [b"1" + b"0" * 16 + b"2\r\nab\r\n0\r\n\r\n" + SMUGGLED]
)


def _holds_no_request(text: bytes) -> bool:
    return b"HTTP/1.1" not in text


@st.composite
def ambiguous_requests(draw: DrawFn) -> Request:
    """A request of which one may doubt where it ends, and what is in it."""
    sound = draw(requests())
    framing = draw(framings)
    body = draw(st.sampled_from([SMUGGLED, b"0\r\n\r\n" + SMUGGLED, b"a" * 66, b""]))
    headers = [*sound.headers, (b"X-Raw", draw(nasty.filter(_holds_no_request)))]
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE"]))
    if draw(st.integers(0, 3)) == 0:
        framing, body = b"Transfer-Encoding: chunked", draw(bad_chunks)
    return Request(method, sound.target, headers, body, framing, foreign=sound.foreign)


@st.composite
def mangled(draw: DrawFn) -> bytes:
    """A request with a piece taken out, doubled or put in."""
    whole = draw(requests()).data
    start = draw(st.integers(0, len(whole)))
    end = min(len(whole), start + draw(st.integers(0, 20)))
    piece = draw(st.one_of(st.just(b""), st.just(whole[start:end] * 2), nasty))
    return whole[:start] + piece + whole[end:]


def plausible_requests() -> Iterator[Request]:
    """Each method of each URL, by whoever may want something, to one machine after the other."""
    called = cycle([name.encode() for name in NAMES if name != VICTIM] + [uuid_of(0).encode()])
    spelled = cycle([encoded, _bare])
    for template, method, odd in product(TEMPLATES, METHODS, [*FOREIGN, None, None, None]):
        target = template.encode().replace(b"{host}", LOCAL)
        target = target.replace(b"{machine}", next(spelled)(next(called)))
        headers = [HOST, odd] if odd and odd[0] != b"Host" else [odd or HOST]
        body = b'{"device": "pxe"}' if method == b"PUT" else b""
        yield Request(method, target, headers, body, foreign=odd is not None)


def requests_in(data: bytes) -> list[Request]:
    """Every line of some bytes that could be the first of a request."""
    lines = [line.split(b" ") for line in re.split(rb"[\r\n]+", data)]
    return [Request(line[0], line[1], [], b"") for line in lines if len(line) == 3]
