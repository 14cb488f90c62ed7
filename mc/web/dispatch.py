"""From a URL to a resource."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import cherrypy

from mc.virsh.quoting import decode
from mc.web.problems import Problem, to_json

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")


class Resource:
    """Answers HTTP methods by methods of the same name, which take the URL's variables.

    They return what is to be sent as JSON. HEAD is answered where it is named: where GET acts,
    HEAD must not.
    """

    def methods(self) -> list[str]:
        return [name for name in METHODS if hasattr(self, name)] + ["OPTIONS"]


@dataclass(frozen=True)
class Route:
    """A URL, such as `/service/{machine}/boot`, and the resource that answers there."""

    template: str
    resource: Resource

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.template.strip("/").split("/"))


class RouteDispatcher(cherrypy.dispatch.MethodDispatcher):  # type: ignore[misc]
    """A MethodDispatcher that finds resources in a table of routes.

    CherryPy's own walks the attributes of Python objects along the path, so that a machine
    called `__class__` or `GET` would lead it astray; here a segment is data. Where two routes
    match, the first one counts.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        super().__init__()
        self._routes = [(route.segments, route.resource) for route in routes]

    def __call__(self, path_info: str) -> None:
        """Set the handler of the request being served."""
        request = cherrypy.serving.request
        # Only what is of use to a single request: CherryPy works through every entry each time.
        request.config = _REQUEST_CONFIG
        request.handler = partial(self._answer, request)

    def _answer(self, request: Any) -> bytes:
        resource, variables = self._find(segments_of(request.wsgi_environ["REQUEST_URI"]))
        headers = cherrypy.serving.response.headers
        if request.method == "OPTIONS":
            headers["Allow"] = ", ".join(resource.methods())
            del headers["Content-Type"]
            cherrypy.serving.response.status = HTTPStatus.NO_CONTENT.value
            return b""
        if request.method not in resource.methods():
            raise Problem(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{request.method} is not for this URL",
                headers={"Allow": ", ".join(resource.methods())},
            )
        value = getattr(resource, request.method)(**variables)
        headers["Content-Type"] = "application/json"
        return to_json(value)

    def _find(self, segments: Sequence[str]) -> tuple[Resource, dict[str, str]]:
        for pattern, resource in self._routes:
            if len(pattern) == len(segments):
                pairs = list(zip(pattern, segments, strict=True))
                if all(part == segment or part.startswith("{") for part, segment in pairs):
                    return resource, {p.strip("{}"): s for p, s in pairs if p.startswith("{")}
        raise Problem(HTTPStatus.NOT_FOUND, "there is nothing at this URL")


_REQUEST_CONFIG = {"request.process_request_body": False}


def segments_of(uri: str) -> list[str]:
    """The decoded segments of a request's URI as it came, in which `%2F` separates nothing.

    >>> segments_of("/service/a%2Fb/state_controller/?wait=1")
    ['service', 'a/b', 'state_controller']
    """
    path = uri.partition("?")[0]
    if not path.startswith("/"):
        path = urlsplit(path).path
    return [
        # WSGI carries bytes as Latin-1 text (PEP 3333).
        decode(unquote_to_bytes(segment.encode("latin-1")))
        for segment in path.removeprefix("/").removesuffix("/").split("/")
    ]
