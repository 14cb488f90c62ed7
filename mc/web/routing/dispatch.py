"""From a request to a resource, and back with its answer."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import cherrypy

from mc.virsh.quoting import decode
from mc.web.access.guard import Guard
from mc.web.problems import Problem, to_json
from mc.web.routing.journal import Refusals
from mc.web.routing.operation import Content, Route, Stream
from mc.web.routing.parameters import read_parameters
from mc.web.server.incoming import parts_of

ROUTE = "libvirt_http_mc.route"
"""Under this name the WSGI environment holds the route that was `Found`."""

Found = tuple[Route | None, dict[str, str]]
"""A route, if there is one, and what its URL's variables are."""


class Routes:
    """A table of routes. Where two match, the first one counts."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes: dict[int, list[Route]] = defaultdict(list)
        for route in routes:
            self._routes[len(route.segments)].append(route)

    @property
    def most_segments(self) -> int:
        """How many parts the path of a URL can have."""
        return max(self._routes)

    def find(self, uri: str) -> Found:
        segments = segments_of(uri)
        for route in self._routes.get(len(segments), ()):
            pairs = list(zip(route.segments, segments, strict=True))
            if all(part == segment or part.startswith("{") for part, segment in pairs):
                return route, {p.strip("{}"): s for p, s in pairs if p.startswith("{")}
        return None, {}


class RouteDispatcher(cherrypy.dispatch.MethodDispatcher):  # type: ignore[misc]
    """A MethodDispatcher that takes the resource from the route that was found.

    CherryPy's own walks the attributes of Python objects along the path, so that a machine
    called `__class__` or `GET` would lead it astray; here a segment is data.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard
        self._refusals = Refusals()

    def __call__(self, path_info: str) -> None:
        """Set the handler of the request being served."""
        request = cherrypy.serving.request
        # Only what is of use to a single request: CherryPy works through every entry each time.
        request.config = _REQUEST_CONFIG
        request.membership = partial(self._guard.membership, request.login)
        request.handler = partial(self._answer, request)

    def _answer(self, request: Any) -> bytes | Iterable[bytes]:
        environment = request.wsgi_environ
        found: Found = environment[ROUTE]
        route, variables = found
        if route is None:
            raise Problem(HTTPStatus.NOT_FOUND, "there is nothing at this URL")
        resource = route.resource
        if request.method == "OPTIONS":
            return _nothing_but(resource.methods())
        if request.method not in resource.methods():
            raise Problem(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{request.method} is not for this URL",
                headers={"Allow": ", ".join(resource.methods())},
            )
        wanted = resource.operation(request.method).parameters
        if resource.operation(request.method).acts:
            # The last part of the URL of an action is its name.
            with self._refusals.logged(route.segments[-1], variables["machine"]):
                self._guard.admit_action(environment, request.login)
                given = read_parameters(wanted, environment)
        else:
            given = read_parameters(wanted, environment)
        return _sent(getattr(resource, request.method)(**variables, **given))


_REQUEST_CONFIG = {"request.process_request_body": False}


def _nothing_but(methods: list[str]) -> bytes:
    """The answer to OPTIONS."""
    response = cherrypy.serving.response
    response.headers["Allow"] = ", ".join(methods)
    del response.headers["Content-Type"]
    response.status = HTTPStatus.NO_CONTENT.value
    return b""


def _sent(value: object) -> bytes | Iterable[bytes]:
    """The body for what a resource returned."""
    response = cherrypy.serving.response
    if isinstance(value, Stream):
        response.headers["Content-Type"] = value.media_type
        response.stream = True
        return value.chunks
    if isinstance(value, Content):
        response.headers["Content-Type"] = value.media_type
        return value.data
    response.headers["Content-Type"] = "application/json"
    return to_json(value, cherrypy.serving.request.wsgi_environ)


def segments_of(uri: str) -> list[str]:
    """The decoded segments of a request's path as it came, in which `%2F` separates nothing.

    >>> segments_of("//service/a%2Fb//state_controller/?wait=1")
    ['service', 'a/b', 'state_controller']
    """
    return [_decoded(part) for part in parts_of(uri.partition("?")[0])]


def _decoded(segment: str) -> str:
    return decode(unquote_to_bytes(segment)) if "%" in segment else segment
