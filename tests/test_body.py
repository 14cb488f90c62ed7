"""Bodies in chunks: where they end, however their bytes come, and which are refused."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.web.problems import Problem
from mc.web.server.body import MOST_FRAMING, Chunked
from mc.web.server.incoming import Incoming, Request
from mc.web.server.serving import Limits

MOST = 100
LIMITS = Limits(head=300, body=MOST, segments=4)
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKS = (
    b'5\r\nab\r\n0\r\nA;a=b ; c="d"\r\n0\r\n\r\n56789\r\n0001\r\n!\r\n00;x\r\nA: b\r\nc:\r\n\r\n'
)
CONTENT = b"ab\r\n00\r\n\r\n56789!"


def taken(data: bytes, cuts: list[int]) -> list[Request]:
    """The requests in some bytes that are cut at these places."""
    incoming, found = Incoming(LIMITS), []
    for start, end in pairwise([0, *sorted(cuts), len(data)]):
        incoming.feed(data[start:end])
        while (request := incoming.take()) is not None:
            found.append(request)
    assert not incoming.started
    return found


def refused(data: bytes) -> int:
    with pytest.raises(Problem) as caught:
        taken(data, [])
    return caught.value.status


@settings(deadline=None)
@given(st.lists(st.integers(0, len(HEAD + CHUNKS + GET))))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    """And what follows the body is the next request."""
    first, second = taken(HEAD + CHUNKS + GET, cuts)
    assert (first.body, second.target) == (CONTENT, "/a")


def test_body_may_come_byte_by_byte() -> None:
    data = (HEAD + CHUNKS) * 2
    assert [one.body for one in taken(data, [*range(len(data))])] == [CONTENT] * 2


def test_body_has_a_length_once_it_has_come() -> None:
    """RFC 9112, section 7.1.3."""
    (one,) = taken(HEAD + CHUNKS, [])
    assert one.fields["content-length"] == str(len(CONTENT))


def test_body_may_be_empty_or_as_long_as_any() -> None:
    assert [one.body for one in taken(HEAD + b"0\r\n\r\n" + GET, [])] == [b"", b""]
    longest = b"3F\r\n" + b"a" * 63 + b"\r\n25\r\n" + b"b" * 37 + b"\r\n0\r\n\r\n"
    assert [len(one.body) for one in taken(HEAD + longest, [])] == [MOST]


def test_client_that_waits_to_continue_is_known() -> None:
    incoming = Incoming(LIMITS)
    incoming.feed(HEAD[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert incoming.take() is None
    assert incoming.expects_continue
    incoming.feed(CHUNKS)
    assert incoming.take() is not None
    assert not incoming.expects_continue


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello!!0\r\n\r\n",
        b"5\r\nhello\n\n0\r\n\r\n",
        b"5\r\nhello\n\r0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\r\nhello\r\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"0\n\n",
        b"0\r\n\n",
        b"0\n\r\n",
        b"0\r\n\r\r\n",
        b";a\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"5\t\r\n",
        b"5 a\r\n",
        b"5,5\r\n",
        b"5\0\r\n",
        b"5;a\0\r\n",
        b"5;a\rb\r\n",
        b"5;\xff\r\n",
        b"+5\r\n",
        b"-5\r\n",
        b"-0\r\n",
        b"0x5\r\n",
        b"5h\r\n",
        b"1_0\r\n",
        b"\xb2\r\n",
        b"g\r\n",
        b"\xef\xbc\x95\r\n",
        b"0" * 17 + b"\r\n",
        b"F" * 17 + b"\r\n",
        b"0\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: no name\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\r\n folded\r\n\r\n",
        b"0\r\nA: b\0\r\n\r\n",
        b"0\r\nA: b\rc\r\n\r\n",
        b"0\r\nA: b\nGET: c\r\n\r\n",
        b"0\r\nA: b\n\r\n",
    ],
)
def test_what_could_be_read_otherwise_is_refused(body: bytes) -> None:
    """By the time that its line is over, whatever follows."""
    assert refused(HEAD + body) == 400


@pytest.mark.parametrize("size", [b"65", b"7fffffff", b"FFFFFFFFFFFFFFFF", b"100000000"])
def test_body_that_will_be_too_long_is_not_waited_for(size: bytes) -> None:
    assert refused(HEAD + size + b"\r\n") == 413
    assert refused(HEAD + b"1\r\na\r\n" + size + b"\r\n") == 413


def test_sum_of_the_chunks_counts() -> None:
    full = b"32\r\n" + b"a" * 50 + b"\r\n"
    assert taken(HEAD + full * 2 + b"0\r\n\r\n", [])
    assert refused(HEAD + full * 2 + b"1\r\n") == 413


@pytest.mark.parametrize(
    "body",
    [
        b"1\r\na\r\n" * (MOST_FRAMING // 5 + 1),
        b"1;" + b"a" * MOST_FRAMING,
        b"1;" + b"a" * MOST_FRAMING + b"\r\n",
        b"1;a=b\r\na\r\n" * (MOST_FRAMING // 9 + 1),
        b"0\r\nA: " + b"b" * MOST_FRAMING,
        b"0\r\n" + b"A: b\r\n" * (MOST_FRAMING // 6 + 1),
        b"1" * (MOST_FRAMING + 1),
    ],
)
def test_what_is_no_content_is_bounded(body: bytes) -> None:
    """Chunks that are too small for what they hold, extensions, trailers."""
    incoming = Incoming(Limits(head=300, body=1 << 16, segments=4))
    with pytest.raises(Problem) as caught:
        for byte in HEAD + body:
            incoming.feed(bytes([byte]))
            assert incoming.take() is None
    assert caught.value.status == 413


def test_no_byte_is_searched_again_however_they_come() -> None:
    class Searched(bytearray):
        bytes_seen = 0

        def find(self, *arguments: object) -> int:
            found = super().find(*arguments)  # type: ignore[arg-type]
            _, start = arguments
            Searched.bytes_seen += (len(self) if found < 0 else found + 1) - int(str(start))
            return found

    body, data = Chunked(1 << 16), Searched()
    lines = [b"40;" + b"a" * 1000 + b"\r\n", b"0\r\n", b"A: " + b"b" * 2000 + b"\r\n", b"\r\n"]
    whole = b"x" * 64 + b"\r\n"
    for byte in lines[0] + whole + b"".join(lines[1:]):
        assert body.take(data) is None
        data.append(byte)
    assert body.take(data) == b"x" * 64
    assert Searched.bytes_seen == len(b"".join(lines))


def request(*lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"POST / HTTP/{version}", "Host: x", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request("Transfer-Encoding: chunked", "Content-Length: 5"), 400),
        (request("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
        (request("Transfer-Encoding: chunked", "Content-Length: 0"), 400),
        (request("Transfer-Encoding: gzip", "Content-Length: 5"), 400),
        (request("Transfer-Encoding:", "Content-Length: 5"), 400),
        (request("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (request("Transfer-Encoding: gzip", "Transfer-Encoding: chunked"), 400),
        (request("Transfer-Encoding: chunked", version="1.0"), 400),
        (request("Transfer-Encoding: chunked", "Connection: keep-alive", version="1.0"), 400),
        (request("Transfer-Encoding : chunked"), 400),
        (request("Transfer-Encoding:\r\n chunked"), 400),
        (request("Transfer-Encoding: chunked, chunked"), 501),
        (request("Transfer-Encoding: chunked,"), 501),
        (request("Transfer-Encoding: gzip, chunked"), 501),
        (request("Transfer-Encoding: chunked, gzip"), 501),
        (request("Transfer-Encoding: chunked;q=1"), 501),
        (request("Transfer-Encoding: xchunked"), 501),
        (request("Transfer-Encoding: \x0bchunked"), 501),
        (request('Transfer-Encoding: "chunked"'), 501),
        (request("Transfer-Encoding: chun\xaaked"), 501),
        (request("Transfer-Encoding: identity"), 501),
    ],
)
def test_no_other_head_announces_chunks(head: bytes, status: int) -> None:
    assert refused(head + CHUNKS) == status


@pytest.mark.parametrize("value", ["chunked", "Chunked", "CHUNKED", "\t chunked \t"])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "HEAD", "DELETE", "OPTIONS"])
def test_chunks_are_taken_of_any_request(value: str, method: str) -> None:
    head = request(f"transfer-encoding: {value}").replace(b"POST", method.encode())
    assert [one.body for one in taken(head + CHUNKS + GET, [])] == [CONTENT, b""]


def test_error_in_a_body_is_answered_by_the_method_of_its_head() -> None:
    """Not by what stands in the body."""
    incoming = Incoming(LIMITS)
    incoming.feed(HEAD + b"zz\r\nHEAD / HTTP/1.1\r\n\r\n")
    with pytest.raises(Problem):
        incoming.take()
    assert not incoming.is_head


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_nothing_but_a_problem_comes_of_nonsense(data: bytes) -> None:
    incoming = Incoming(LIMITS)
    incoming.feed(HEAD + data)
    try:
        assert incoming.take() is None or b"0\r\n" in data
    except Problem as problem:
        assert problem.status in (400, 413)
