"""The console page: the files it is made of, and what a browser gets at `/`."""

from pathlib import Path

import cherrypy

from mc.web.problems import wants_html
from mc.web.routing.operation import Content, Operation, Resource, Route, operation
from mc.web.service import schemas
from mc.web.service.controller import Controller
from mc.web.service.resources import Index

_FOLDER = Path(__file__).parent.parent / "console"
_PAGE = "console.html"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Home(Index):
    """The page for a browser, what there is to call for a program."""

    def __init__(self, controller: Controller, page: Content) -> None:
        super().__init__(controller)
        self._page = page

    @operation(
        "What there is to call; the console page for a browser",
        answer=schemas.INDEX,
        other_media_types=("text/html",),
    )
    def GET(self, host: str | None = None) -> object:
        environment = cherrypy.serving.request.wsgi_environ
        return self._page if wants_html(environment) else super().GET(host)

    HEAD = GET


class PageFile(Resource):
    """A file that the page consists of."""

    documented = False

    def __init__(self, content: Content) -> None:
        self._content = content

    def operation(self, method: str) -> Operation:
        media_type = self._content.media_type
        return Operation("A file of the console page", {"type": "string"}, media_type=media_type)

    def GET(self) -> object:
        return self._content

    HEAD = GET


def page_routes(controller: Controller) -> list[Route]:
    """The URLs of the page, whose files are read here, once."""
    files = {
        file.name: Content(_MEDIA_TYPES[file.suffix], file.read_bytes())
        for file in sorted(_FOLDER.iterdir())
    }
    home = Route("/", Home(controller, files.pop(_PAGE)))
    return [home, *(Route(f"/console/{name}", PageFile(files[name])) for name in files)]
