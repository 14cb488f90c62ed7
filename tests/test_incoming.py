"""Where requests end, however their bytes come, and what is none."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.web.problems import Problem
from mc.web.server.incoming import Incoming

MAX_HEADER, MAX_BODY = 200, 100
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab\r\n\r"


def incoming() -> Incoming:
    return Incoming(MAX_HEADER, MAX_BODY)


def taken(chunks: list[bytes]) -> list[bytes]:
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
    assert taken([GET]) == [GET]
    assert taken([POST + GET + POST]) == [POST, GET, POST]


@settings(deadline=None)
@given(st.lists(st.sampled_from([GET, POST]), max_size=4), st.data())
def test_it_does_not_matter_how_the_bytes_are_cut(
    requests: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(edges)]
    assert taken(chunks) == requests


def test_many_blanks_in_a_header_take_no_time() -> None:
    """By a pattern that looks for the end of the value it would be an hour."""
    subject = Incoming(1 << 20, MAX_BODY)
    whole = request("X: a" + " " * 1_000_000 + "b")
    subject.feed(whole)
    assert subject.take() == whole


def test_empty_lines_without_end_are_refused() -> None:
    assert taken([b"\r\n" * 8 + GET, b"\r\n" * 8 + GET]) == [GET, GET]
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
    assert subject.take() == POST
    assert not subject.started


def test_empty_lines_before_a_request_mean_nothing() -> None:
    assert taken([b"\r\n\r\n" + GET, b"\r", b"\n" + GET]) == [GET, GET]


def test_client_that_waits_to_continue_is_known_before_its_body() -> None:
    subject = incoming()
    head, body = POST.split(b"\r\n\r\n", 1)
    subject.feed(head + b"\r\nExpect: 100-Continue\r\n\r\n")
    assert subject.take() is None
    assert subject.expects_continue
    subject.feed(body)
    assert subject.take() is not None
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
        (request("Transfer-Encoding: chunked"), 411),
        (request("Transfer-Encoding: Chunked", "Content-Length: 1"), 411),
        (request("Transfer-Encoding: gzip, chunked"), 501),
        (request("Transfer-Encoding: "), 501),
        (request("Host: y"), 400),
        (request("Authorization: a", "authorization: b"), 400),
        (request("X : y"), 400),
        (request(" folded: y"), 400),
        (request("X: y", "\tfolded"), 400),
        (request("no colon"), 400),
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
        (request("X: " + "a" * MAX_HEADER), 413),
        (request("X: " + "a" * MAX_HEADER)[:-4], 413),
    ],
)
def test_what_is_ambiguous_or_too_long_is_refused(data: bytes, status: int) -> None:
    assert refused(data) == status


def test_longest_request_is_taken() -> None:
    head = request("Content-Length: 100", "X: ")
    head = head.replace(b"X: ", b"X: " + b"a" * (MAX_HEADER - len(head) + 4))
    assert head.index(b"\r\n\r\n") == MAX_HEADER
    whole = head + b"b" * MAX_BODY
    assert taken([whole, whole]) == [whole, whole]


def test_leading_zeros_are_no_great_length() -> None:
    whole = request("Content-Length: " + "0" * 50 + "3") + b"abc"
    assert taken([whole]) == [whole]


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_nothing_but_a_problem_comes_of_nonsense(data: bytes) -> None:
    subject = incoming()
    subject.feed(data)
    try:
        assert subject.take() is None or b"\r\n\r\n" in data
    except Problem as problem:
        assert problem.status in (400, 411, 413, 414, 501)
