"""HTTP below the application: what cheroot answers itself, and what it must not let through."""

from http import HTTPStatus

import cherrypy
from cheroot.server import HTTPConnection
from cherrypy import _cpwsgi_server

from mc.web.problems import Problem


class Request(_cpwsgi_server.CPWSGIHTTPRequest):  # type: ignore[misc]
    """A request whose body has a length, so that the next one on the connection is found."""

    def read_request_headers(self) -> bool:
        """Whether the request is fit to be served; if not, it has been answered."""
        if not super().read_request_headers():
            return False
        if self.chunked_read:
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "a body needs a Content-Length")
        if not self.inheaders.get(b"Content-Length", b"0").strip().isdigit():
            return self._refuse(HTTPStatus.BAD_REQUEST, "the Content-Length is not a number")
        return True

    def simple_response(self, status: str, msg: str = "") -> None:
        """Answer what never gets to the application, and end the connection."""
        code = HTTPStatus(int(str(status)[:3]))
        self._refuse(code, msg or code.description or code.phrase)

    def _refuse(self, status: HTTPStatus, detail: str) -> bool:
        self.close_connection = True
        body = Problem(status, detail).json()
        head = (
            f"{self.server.protocol} {status.value} {status.phrase}\r\n"
            "Content-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\n"
            "Connection: close\r\n\r\n"
        )
        self.conn.wfile.write(head.encode("ascii") + body)
        return False


class Connection(HTTPConnection):
    """A connection of such requests."""

    RequestHandlerClass = Request


def http_server() -> _cpwsgi_server.CPWSGIServer:
    """An HTTP server by the settings of `cherrypy.server`."""
    server = _cpwsgi_server.CPWSGIServer(cherrypy.server)
    server.ConnectionClass = Connection
    return server
