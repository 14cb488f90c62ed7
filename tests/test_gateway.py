"""From a request to a WSGI application and back (PEP 3333), also when it breaks."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.validate import validator

import pytest

from mc.web.server.addresses import Proxies
from mc.web.server.headers import EVERY_ANSWER, SERVER
from tests.serving import serving
from tests.wire import Response, Wire

TEXT = ("Content-Type", "text/plain")


def get(*lines: str, target: str = "/", version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/{version}", "Host: x", *lines, "", ""]).encode()


def answer(port: int, request: bytes, *, to_head: bool = False) -> Response:
    with Wire(port) as wire:
        wire.send(request)
        response = wire.response(to_head=to_head)
    assert response is not None
    return response


def everything(port: int, request: bytes) -> bytes:
    with Wire(port) as wire:
        wire.send(request, last=True)
        return wire.everything()


def told(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    """An application that tells what it was given."""
    given = {name: value for name, value in environment.items() if isinstance(value, str)}
    given["body"] = environment["wsgi.input"].read(1000).decode()
    body = json.dumps(given).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def environment_of(port: int, request: bytes) -> Any:
    response = answer(port, request)
    assert response.status == 200, response
    return response.json


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    # It raises whatever is against the rules of WSGI, on either side.
    with serving(validator(told)) as port:
        yield port


def test_environment_is_as_the_standard_says(port: int) -> None:
    body = b'{"a": 1}'
    head = get(
        "Content-Length: 8",
        "Accept: a",
        "accept: b",
        "Authorization: Digest x",
        "User-Agent: c",
        "Cookie: d",
        "Content-Type: text/xml",
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: https",
        "Connection: keep-alive",
        target="/service/a%2Fb%c3%bc/?x=%41&y",
    )
    given = environment_of(port, head + body)
    remote_port = given.pop("REMOTE_PORT")
    assert int(remote_port) > 0
    assert given == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/service/a/b\xc3\xbc/",
        "REQUEST_URI": "/service/a%2Fb%c3%bc/?x=%41&y",
        "QUERY_STRING": "x=%41&y",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "x",
        "HTTP_ACCEPT": "a, b",
        "HTTP_AUTHORIZATION": "Digest x",
        "HTTP_USER_AGENT": "c",
        "CONTENT_LENGTH": "8",
        "wsgi.url_scheme": "http",
        "body": body.decode(),
    }


def test_scheme_is_that_of_the_connection_whatever_the_client_writes(port: int) -> None:
    given = environment_of(port, get(target="https://127.0.0.1/service"))
    assert given["wsgi.url_scheme"] == "http"
    assert given["libvirt_http_mc.authority"] == "127.0.0.1"


FORWARDED = ("X-Forwarded-For: 198.51.100.1, 192.0.2.7", "X-Forwarded-Proto: HTTPS")


@pytest.mark.parametrize(
    ("trusted", "lines", "client", "scheme"),
    [
        ([], FORWARDED, "127.0.0.1", "http"),
        (["10.0.0.0/8"], FORWARDED, "127.0.0.1", "http"),
        (["127.0.0.0/8"], FORWARDED, "192.0.2.7", "https"),
        (["127.0.0.1", "192.0.2.0/24"], FORWARDED, "198.51.100.1", "https"),
        (["127.0.0.1"], (), "127.0.0.1", "http"),
        (["127.0.0.1"], ("X-Forwarded-For: 1.2.3.4", "x-Forwarded-for: ::5"), "::5", "http"),
        (["127.0.0.1"], ("X-Forwarded-For: 192.0.2.7:80",), "192.0.2.7", "http"),
        (["127.0.0.1"], ("X-Forwarded-For: [2001:DB8::1]:80",), "2001:db8::1", "http"),
        (["127.0.0.1"], ("X-Forwarded-For: ::ffff:192.0.2.7",), "192.0.2.7", "http"),
        (["127.0.0.1"], ("X-Forwarded-For: unknown",), "127.0.0.1", "http"),
        (["127.0.0.1"], ("X-Forwarded-For: fe80::1%eth0 x=y",), "127.0.0.1", "http"),
        (["127.0.0.1"], ("X-Forwarded-For: [::1",), "127.0.0.1", "http"),
        (["127.0.0.1"], ("X-Forwarded-For: ::5, ", "X-Forwarded-Proto:"), "::5", "http"),
        (["127.0.0.1"], ("X-Forwarded-Proto: https, http",), "127.0.0.1", "http"),
        (["127.0.0.1"], ("X-Forwarded-Proto: ftp",), "127.0.0.1", "http"),
    ],
)  # fmt: skip
def test_proxies_are_believed_that_are_trusted(
    trusted: list[str], lines: tuple[str, ...], client: str, scheme: str
) -> None:
    with serving(validator(told), proxies=Proxies(trusted)) as port:
        given = environment_of(port, get(*lines))
    assert (given["REMOTE_ADDR"], given["wsgi.url_scheme"]) == (client, scheme)
    assert not any("FORWARDED" in name for name in given)


def test_answer_has_what_every_answer_has_and_may_have_it_otherwise() -> None:
    def application(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        headers = [TEXT, ("Content-Length", "0"), ("Cache-Control", "private"), ("Server", "X/1")]
        start("200 OK", headers)
        return []

    with serving(application) as port:
        headers = answer(port, get()).headers
    expected = EVERY_ANSWER | SERVER | {"Cache-Control": "private"}
    assert {name: headers.get(name.lower()) for name in expected} == expected


def stream(environment: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    start("200 OK", [TEXT])
    yield b"one"
    yield b""
    yield b"two"


def test_answer_without_a_length_is_chunked_or_ends_with_the_connection() -> None:
    with serving(validator(stream)) as port:
        head, _, body = everything(port, get()).partition(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        assert b"Connection" not in head
        assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        head, _, body = everything(port, get("Connection: keep-alive", version="1.0")).partition(
            b"\r\n\r\n"
        )
        assert b"Transfer-Encoding" not in head
        assert b"Connection: close" in head
        assert body == b"onetwo"


def test_head_and_no_content_have_no_body() -> None:
    def application(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        if environment["REQUEST_METHOD"] == "HEAD":
            start("200 OK", [TEXT, ("Content-Length", "5")])
        else:
            start("204 No Content", [])
        return []

    with serving(application) as port, Wire(port) as wire:
        wire.send(get().replace(b"GET", b"HEAD") + get() * 2)
        response = wire.response(to_head=True)
        assert response and response.headers["content-length"] == "5"
        for _ in range(2):
            response = wire.response()
            assert response and response.status == 204
            assert "transfer-encoding" not in response.headers


def test_connection_is_kept_as_the_version_wants(port: int) -> None:
    assert everything(port, get() * 3).count(b"HTTP/1.1 200") == 3
    assert everything(port, get("Connection: close") * 3).count(b"HTTP/1.1 200") == 1
    assert everything(port, get(version="1.0") * 3).count(b"HTTP/1.1 200") == 1
    kept = everything(port, get("Connection: keep-alive", version="1.0") * 3)
    assert kept.count(b"Connection: keep-alive") == 3


def fails_before(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    raise ValueError("secret")


def fails_after_start(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    start("200 OK", [TEXT])
    raise ValueError("secret")


def fails_in_the_middle(environment: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
    start("200 OK", [TEXT, ("Content-Length", "6")])
    yield b"one"
    raise ValueError("secret")


def is_told_to_exit(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    raise SystemExit(1)


def never_starts(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    return [b"body"]


def starts_twice(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    start("200 OK", [TEXT])
    start("200 OK", [TEXT])
    return []


def is_too_short(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    start("200 OK", [TEXT, ("Content-Length", "6")])
    return [b"one"]


def is_too_long(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    start("200 OK", [TEXT, ("Content-Length", "2")])
    return [b"one"]


def returns_text(environment: WSGIEnvironment, start: StartResponse) -> Any:
    start("200 OK", [TEXT, ("Content-Length", "3")])
    return ["one"]


def returns_nothing(environment: WSGIEnvironment, start: StartResponse) -> Any:
    start("200 OK", [TEXT, ("Content-Length", "3")])


def splits_its_answer(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    start("200 OK", [TEXT, ("X", "a\r\nSet-Cookie: b"), ("Content-Length", "0")])
    return []


def is_beyond_latin_1(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    start("200 OK", [TEXT, ("X", "\u20ac"), ("Content-Length", "0")])
    return []


def has_no_status(environment: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    start("fine", [TEXT, ("Content-Length", "0")])
    return []


BROKEN: list[WSGIApplication] = [
    fails_before, fails_after_start, fails_in_the_middle, is_told_to_exit, never_starts,
    starts_twice, is_too_short, is_too_long, returns_text, returns_nothing, splits_its_answer,
    is_beyond_latin_1, has_no_status,
]  # fmt: skip


@pytest.mark.parametrize("application", BROKEN)
def test_answer_is_ours_whatever_the_application_does(
    application: WSGIApplication, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is served on: there is one worker only."""
    with serving(application, workers=1) as port:
        for _ in range(3):
            response = answer(port, get())
            assert response.status == 500
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json["title"] == "Internal Server Error"
            assert b"secret" not in response.body
            expected = EVERY_ANSWER | SERVER
            assert {name: response.headers.get(name.lower()) for name in expected} == expected
    assert caplog.text.count("the application failed") == 3


def test_answer_that_has_begun_is_broken_off(caplog: pytest.LogCaptureFixture) -> None:
    def application(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [TEXT])
        yield b"one"
        raise ValueError("secret")

    with serving(application, workers=1) as port:
        received = everything(port, get() * 2)
    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"3\r\none\r\n")
    assert "the application failed" in caplog.text


def test_error_may_take_the_place_of_what_has_not_been_sent() -> None:
    """PEP 3333: `start_response` with `exc_info`."""

    def application(environment: WSGIEnvironment, start: StartResponse) -> Iterator[bytes]:
        start("200 OK", [TEXT, ("Content-Length", "3")])
        yield b"one"
        try:
            raise ValueError("secret")
        except ValueError:
            headers = [TEXT, ("Content-Length", "3")]
            start("503 Service Unavailable", headers, sys.exc_info())
        yield b"bad"

    with serving(application) as port:
        response = answer(port, get())
    assert (response.status, response.body) == (503, b"bad")


def test_iterable_is_closed_whatever_comes(caplog: pytest.LogCaptureFixture) -> None:
    closed = []

    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            raise ValueError("no parts")

        def close(self) -> None:
            closed.append(1)

    def application(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start("200 OK", [TEXT])
        return Parts()

    with serving(application) as port:
        assert answer(port, get()).status == 500
    assert closed == [1]


def test_server_ends_at_any_moment() -> None:
    for _ in range(300):
        with serving(told):
            pass
    for _ in range(30):
        with serving(told) as port, Wire(port) as wire:
            wire.send(get() * 5)
