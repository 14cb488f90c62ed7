"""The CherryPy application, and who gets to it."""

from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import cherrypy

from mc.web.access.guard import Guard
from mc.web.problems import error_page, problem_of
from mc.web.routing.dispatch import ROUTE, Found, RouteDispatcher, Routes
from mc.web.routing.operation import METHODS

KNOWN_METHODS = (*METHODS, "OPTIONS")


class Request(cherrypy.Application.request_class):  # type: ignore[misc]
    """A request of somebody who has been let in, whose every error is answered in one place.

    CherryPy parses nothing of it: who wants a header or the query reads it from the WSGI
    environment.
    """

    throw_errors = True
    """To `respond`, and what it cannot answer to the gateway; CherryPy would make a page of it."""

    error_page = {"default": error_page}  # noqa: RUF012 (CherryPy copies it for each request)

    def process_headers(self) -> None:
        """Leave them alone."""

    def process_query_string(self) -> None:
        """Leave it alone."""

    def respond(self, path_info: str) -> None:
        try:
            super().respond(path_info)
        except Exception as error:
            problem_of(error).respond()
            cherrypy.serving.response.finalize()
        status = int(str(cherrypy.serving.response.status)[:3])
        self.app.on_answer(self.wsgi_environ[ROUTE], self.method, status)


OnAnswer = Callable[[Found, str, int], None]


class Application(cherrypy.Application):  # type: ignore[misc]
    """The CherryPy application; `on_answer` is told of each request."""

    request_class = Request

    def __init__(self, guard: Guard, on_answer: OnAnswer) -> None:
        super().__init__(None, "", {"/": {"request.dispatch": RouteDispatcher(guard)}})
        self.on_answer = on_answer
        # What is not answered is for the gateway; CherryPy's trap would make a page of it.
        self.wsgiapp.pipeline = []
        # CherryPy would format a line for every request, only to drop it; actions have our own log.
        self.log.access = lambda: None


class Admission:
    """The WSGI application that is served: it lets in whom the guard admits, and nobody else.

    Strangers do not get to CherryPy, but for what is public. `count` is told, of each request that
    has been answered, the URL's template, the method and the status.
    """

    def __init__(
        self, routes: Routes, guard: Guard, count: Callable[[str, str, int], None]
    ) -> None:
        self._routes = routes
        self._guard = guard
        self._count = count
        self._application = Application(guard, self._answered)

    def __call__(
        self, environment: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        found = self._routes.find(environment["REQUEST_URI"])
        environment[ROUTE] = found
        public = found[0] is not None and found[0].resource.public
        try:
            user = self._guard.admit(environment, public=public)
        except Exception as error:
            problem = problem_of(error)
            self._answered(found, environment["REQUEST_METHOD"], problem.status)
            body = problem.body(environment)
            start_response(*problem.head(len(body)))
            return () if environment["REQUEST_METHOD"] == "HEAD" else (body,)
        if user is not None:
            environment["REMOTE_USER"] = user
        return self._application(environment, start_response)  # type: ignore[no-any-return]

    def _answered(self, found: Found, method: str, status: int) -> None:
        # Neither label is to take whatever value a client thinks of.
        template = found[0].template if found[0] is not None else "other"
        self._count(template, method if method in KNOWN_METHODS else "other", status)
