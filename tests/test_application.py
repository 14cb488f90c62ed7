"""The application, when a part of it breaks: the answer is ours all the same."""

from collections.abc import Callable
from typing import Any, cast

import cherrypy
import pytest

from mc.web.access.guard import Guard
from mc.web.routing.application import Admission
from mc.web.routing.dispatch import Routes
from mc.web.routing.operation import Content, Resource, Route, Stream, operation
from mc.web.server.headers import EVERY_ANSWER, SERVER
from tests.serving import serving
from tests.wire import Response, Wire

counted: list[tuple[str, str, int]] = []


def count(template: str, method: str, status: int) -> None:
    counted.append((template, method, status))


class Broken(Resource):
    """Does what it is told to."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    @operation("Breaks", answer={})
    def GET(self) -> object:
        return self._act()

    HEAD = GET


class BrokenGuard(Guard):
    def admit(self, *_: Any, **__: Any) -> str | None:
        raise ValueError("secret")


class BrokenRoutes(Routes):
    def find(self, uri: str) -> Any:
        raise ValueError("secret")


def admission(act: Callable[[], object]) -> Admission:
    return Admission(Routes([Route("/", Broken(act))]), Guard([], None), count)


def answer(application: Any, method: str = "GET") -> Response:
    """From a server that goes on with its only worker."""
    request = f"{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    responses = []
    with serving(application, workers=1) as port:
        for _ in range(2):
            with Wire(port) as wire:
                wire.send(request)
                responses.append(wire.response(to_head=method == "HEAD"))
    assert responses[0] and responses[1]
    return responses[1]


def raising(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def recurse() -> object:
    return recurse()


def odd_header() -> object:
    cherrypy.serving.response.headers["X"] = "a\r\nSet-Cookie: b"
    return {}


def odd_status() -> object:
    cherrypy.serving.response.status = "nonsense"
    return {}


def endless() -> object:
    cherrypy.serving.response.headers["Content-Length"] = "5"
    return {}


def broken_chunk(_: str) -> bytes:
    raise ValueError("secret")


WAYS: dict[str, Callable[[], object]] = {
    "error": raising(ValueError("secret")),
    "no more memory": raising(MemoryError("secret")),
    "CherryPy's error": raising(cherrypy.HTTPError(500, "secret")),
    "an exit": raising(SystemExit("secret")),
    "an interrupt": raising(KeyboardInterrupt("secret")),
    "the end of a generator": raising(GeneratorExit("secret")),
    "no end of calls": recurse,
    "no JSON": object,
    "text for bytes": lambda: Content("text/plain", cast(bytes, "secret")),
    "a stream that breaks at once": lambda: Stream("text/plain", map(broken_chunk, "x")),
    "a status that is none": odd_status,
    "a length that is not so": endless,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_resource_that_breaks(way: str, method: str) -> None:
    response = answer(admission(WAYS[way]), method)
    # HEAD has no body that could break or be of another length.
    if method == "GET" or way not in ("a length that is not so", "a stream that breaks at once"):
        check(response, method)


def check(response: Response, method: str) -> None:
    assert response.status == 500
    expected = EVERY_ANSWER | SERVER | {"Content-Type": "application/problem+json"}
    assert {name: response.headers.get(name.lower()) for name in expected} == expected
    if method != "HEAD":
        assert response.json["title"] == "Internal Server Error"
        assert b"secret" not in response.body and b"Traceback" not in response.body


@pytest.mark.parametrize(
    "application",
    [
        Admission(Routes([]), BrokenGuard([], None), count),
        Admission(BrokenRoutes([Route("/", Broken(dict))]), Guard([], None), count),
        Admission(Routes([Route("/", Broken(dict))]), Guard([], None), cast(Any, None)),
    ],
    ids=["guard", "routes", "counting"],
)
def test_what_stands_before_and_behind_breaks(application: Admission) -> None:
    check(answer(application), "GET")


def test_header_that_would_be_two_is_one() -> None:
    response = answer(admission(odd_header))
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("status", [400, 403, 404, 418, 503])
def test_error_of_cherrypy_is_a_problem(status: int) -> None:
    response = answer(admission(raising(cherrypy.HTTPError(status, "secret"))))
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json["status"] == status
    assert b"secret" not in response.body


def test_each_answer_is_counted() -> None:
    counted.clear()
    answer(admission(dict))
    answer(Admission(Routes([]), Guard([], None), count), "BREW")
    assert counted == [("/", "GET", 200)] * 2 + [("other", "other", 404)] * 2
