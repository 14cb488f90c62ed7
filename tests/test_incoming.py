"""Where requests begin and end, however their bytes come; what is in them, and what is none."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.web.problems import Problem
from mc.web.server.incoming import (
    KNOWN_FIELDS,
    MOST_DROPPED,
    MOST_FIELDS,
    Incoming,
    Request,
)
from mc.web.server.serving import Limits

MAX_HEADER, MAX_BODY = 200, 100
LONGEST_HEAD = MOST_DROPPED + 2 * MAX_HEADER
LIMITS = Limits(MAX_HEADER, MAX_BODY, segments=4)
FIELDS = {"host": "x"}
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
GOT = Request("GET", "/a", None, "HTTP/1.1", FIELDS)
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab\r\n\r"
POSTED = Request("POST", "/b", None, "HTTP/1.1", FIELDS | {"content-length": "5"}, b"ab\r\n\r")
MEANT = {GET: GOT, POST: POSTED}


def incoming() -> Incoming:
    return Incoming(LIMITS)


def taken(chunks: list[bytes]) -> list[Request]:
    """The requests that are found when the bytes come in these chunks."""
    subject = incoming()
    found = []
    for chunk in chunks:
        subject.feed(chunk)
        while (request := subject.take()) is not None:
            found.append(request)
    assert not subject.started
    return found


def refused(data: bytes) -> int:
    subject = incoming()
    subject.feed(data)
    with pytest.raises(Problem) as caught:
        subject.take()
    return caught.value.status


def test_request_comes_whole_and_one_at_a_time() -> None:
    assert taken([GET]) == [GOT]
    assert taken([POST + GET + POST]) == [POSTED, GOT, POSTED]


@settings(deadline=None)
@given(st.lists(st.sampled_from([GET, POST]), max_size=4), st.data())
def test_it_does_not_matter_how_the_bytes_are_cut(
    requests: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(edges)]
    assert taken(chunks) == [MEANT[request] for request in requests]


def test_many_blanks_in_a_header_take_no_time() -> None:
    """By a pattern that looks for the end of the value it would be hours."""
    (only,) = taken([request("X: a" + " " * (LONGEST_HEAD - 100) + "b")])
    assert only.fields == FIELDS


def test_empty_lines_without_end_are_refused() -> None:
    assert taken([b"\r\n" * 8 + GET, b"\r\n" * 8 + GET]) == [GOT, GOT]
    assert refused(b"\r\n" * 9) == 400
    subject = incoming()
    for _ in range(8):
        subject.feed(b"\r\n")
        assert subject.take() is None
    subject.feed(b"\r\n")
    with pytest.raises(Problem):
        subject.take()


def test_part_of_a_request_is_kept() -> None:
    subject = incoming()
    for byte in POST[:-1]:
        subject.feed(bytes([byte]))
        assert subject.take() is None
        assert subject.started
    subject.feed(POST[-1:])
    assert subject.take() == POSTED
    assert not subject.started


def test_empty_lines_before_a_request_mean_nothing() -> None:
    assert taken([b"\r\n\r\n" + GET, b"\r", b"\n" + GET]) == [GOT, GOT]


def test_client_that_waits_to_continue_is_known_before_its_body() -> None:
    subject = incoming()
    head, body = POST.split(b"\r\n\r\n", 1)
    subject.feed(head + b"\r\nExpect: 100-Continue\r\n\r\n")
    assert subject.take() is None
    assert subject.expects_continue
    subject.feed(body)
    assert subject.take() is not None
    assert not subject.expects_continue


def test_nobody_who_speaks_http_1_0_is_told_to_continue() -> None:
    """He would take it for the answer: RFC 9110, section 15.2."""
    subject = incoming()
    head = POST.split(b"\r\n\r\n", 1)[0].replace(b"1.1", b"1.0")
    subject.feed(head + b"\r\nExpect: 100-continue\r\n\r\n")
    assert subject.take() is None
    assert not subject.expects_continue


def request(*lines: str) -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("Content-Length: 1", "Content-Length: 1"), 400),
        (request("Content-Length: 1", "content-length: 2"), 400),
        (request("Content-Length: 1, 1"), 400),
        (request("Content-Length: +1"), 400),
        (request("Content-Length: -1"), 400),
        (request("Content-Length: 1_0"), 400),
        (request("Content-Length: \xb2"), 400),
        (request("Content-Length:"), 400),
        (request("Content-Length: 0x1"), 400),
        (request("Content-Length: 101"), 413),
        (request("Content-Length: " + "9" * 60), 413),
        (request("Transfer-Encoding: Chunked", "Content-Length: 1"), 400),
        (request("Transfer-Encoding: gzip, chunked"), 501),
        (request("Transfer-Encoding: "), 501),
        (request("Host: y"), 400),
        (request("Authorization: a", "authorization: b"), 400),
        (request("X : y"), 400),
        (request(" folded: y"), 400),
        (request("X: y", "\tfolded"), 400),
        (request("no colon"), 400),
        (request("accept"), 400),
        (request(": no name"), 400),
        (request("X: a\nContent-Length: 1"), 400),
        (request("X: a\rb"), 400),
        (request("X: a\0b"), 400),
        (request("X\xe4: a"), 400),
        (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
        (b"GET /\0 HTTP/1.1\r\n\r\n", 400),
        (b"GET /\r HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * MAX_HEADER + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"a" * (MAX_HEADER + 1), 414),
        (request("Accept: " + "a" * MAX_HEADER), 431),
        (request("X: " + "a" * LONGEST_HEAD), 431),
        (request("X: " + "a" * LONGEST_HEAD)[:-4], 431),
        (request(*["X: y"] * MOST_FIELDS), 431),
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"\r\nHost: x\r\n\r\n", 400),
        (b"GET /a/b/c/d/e HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET //a//b//c//d//e// HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /a/%2F/%2f/d/. HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /fr\xc3\xbch HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /100% HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /%4 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /%4g/a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"G[T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"G" * 33 + b" / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
        *(
            (b"GET / %b\r\nHost: x\r\n\r\n" % version, 400)
            for version in (
                b"HTTP/01.1",
                b"HTTP/1.-1",
                b"HTTP/+1.1",
                b"HTTP/1 .1",
                b"HTTP/1.1.1",
                b"HTTP/1",
                b"HTTP/11",
                b"http/1.1",
                b"HTTP/1.\xb2",
                b"HTTP/1.10",
                b"",
            )
        ),
        *(
            (b"GET / %b\r\nHost: x\r\n\r\n" % version, 505)
            for version in (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/9.9")
        ),
    ],
)
def test_what_is_ambiguous_or_too_long_is_refused(data: bytes, status: int) -> None:
    assert refused(data) == status


def test_longest_request_is_taken() -> None:
    """Whatever else there is in its head."""
    line = b"POST /" + b"a" * (MAX_HEADER - 15) + b" HTTP/1.1"
    assert len(line) == MAX_HEADER
    known = ["Host: x", "Content-Length: 100"]
    known.append("Accept: " + "a" * (MAX_HEADER - len("".join(known)) - len("Accept: ")))
    unknown = [f"X-{number}: y" for number in range(MOST_FIELDS - 4)]
    head = b"\r\n".join([line, *(field.encode() for field in (*known, *unknown)), b"Cookie: "])
    head += b"c" * (LONGEST_HEAD - len(head))
    found = taken([head + b"\r\n\r\n" + b"b" * MAX_BODY] * 2)
    assert [(len(one.target), sorted(one.fields), one.body) for one in found] == [
        (MAX_HEADER - 14, ["accept", "content-length", "host"], b"b" * MAX_BODY)
    ] * 2


def test_what_the_service_does_not_read_is_dropped() -> None:
    (only,) = taken([request("Cookie: a=b", "X_Forwarded_For: a", "Sec_Fetch_Site: b", "X-Y: z")])
    assert only.fields == FIELDS


def test_fields_that_may_be_repeated_are_lists() -> None:
    (only,) = taken([request("Accept: a", "X: b", "accept:\tb \t", "X-Forwarded-For: 1")])
    assert only.fields == FIELDS | {"accept": "a, b", "x-forwarded-for": "1"}


@pytest.mark.parametrize("name", sorted(KNOWN_FIELDS))
def test_known_field_is_passed_on_or_refused(name: bytes) -> None:
    value = "0" if name == b"content-length" else "value"
    if name == b"transfer-encoding":
        assert refused(request(f"{name.decode()}: {value}")) == 501
    elif name != b"host":
        assert taken([request(f"{name.decode()}: {value}")])[0].fields[name.decode()] == value


@pytest.mark.parametrize(
    ("target", "meant", "authority"),
    [
        ("/", "/", None),
        ("/a/b/c/d/?x=/////", "/a/b/c/d/?x=/////", None),
        ("//evil/", "//evil/", None),
        ("//a///b/c//d//", "//a///b/c//d//", None),
        ("///////?/", "///////?/", None),
        ("http://y//a//b", "//a//b", "y"),
        ("http:////y/a", "//y/a", ""),
        ("/%2F%c3%BC?%", "/%2F%c3%BC?%", None),
        ("http://y", "/", "y"),
        ("HTTPS://y:1?a=b", "/?a=b", "y:1"),
        ("http://[::1/a", "/a", "[::1"),
        ("http:///a", "/a", ""),
    ],
)
def test_target_is_taken_apart(target: str, meant: str, authority: str | None) -> None:
    (only,) = taken([f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()])
    assert (only.target, only.authority) == (meant, authority)


def test_asterisk_is_for_options() -> None:
    """RFC 9112, section 3.2.4."""
    (only,) = taken([b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"])
    assert only.target == "*"


@pytest.mark.parametrize(
    ("version", "fields", "keeps"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: Close"], False),
        ("1.1", ["Connection: a", "Connection: b, close"], False),
        ("1.0", [], False),
        ("1.0", ["Connection: Keep-Alive"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
    ],
)
def test_connection_is_kept_as_the_client_wants(
    version: str, fields: list[str], keeps: bool
) -> None:
    head = "\r\n".join([f"GET / HTTP/{version}", "Host: x", *fields, "", ""])
    assert taken([head.encode()])[0].keeps_connection is keeps


def test_leading_zeros_are_no_great_length() -> None:
    (only,) = taken([request("Content-Length: " + "0" * 50 + "3") + b"abc"])
    assert only.body == b"abc"


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_nothing_but_a_problem_comes_of_nonsense(data: bytes) -> None:
    subject = incoming()
    subject.feed(data)
    try:
        assert subject.take() is None or b"\r\n\r\n" in data
    except Problem as problem:
        assert problem.status in (400, 404, 413, 414, 431, 501, 505)
