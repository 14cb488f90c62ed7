"""The CherryPy server: one application, started and stopped."""

import logging
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any

import cherrypy
from cherrypy import _cprequest

from mc.settings import Settings
from mc.web.access.attempts import WAITING_AT_MOST
from mc.web.access.guard import Guard
from mc.web.dispatch import RouteDispatcher
from mc.web.headers import EVERY_ANSWER
from mc.web.operation import METHODS, Route
from mc.web.problems import Problem, problem_of
from mc.web.server.reception import Server

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
KNOWN_METHODS = (*METHODS, "OPTIONS")


OnAnswer = Callable[[str, str, int], None]
"""Gets the URL's template, the method and the status of a request that has been answered."""


class Request(_cprequest.Request):  # type: ignore[misc]
    """A request whose every error is answered in one place."""

    route = "other"
    """The template of its URL, once it has been found."""

    @staticmethod
    def membership() -> Callable[[], bool]:
        """Tells, whenever it is called, whether who sent this would still be let in."""
        return lambda: True

    def __init__(self, on_answer: OnAnswer, *connection: Any) -> None:
        super().__init__(*connection)
        self._on_answer = on_answer

    def respond(self, path_info: str) -> None:
        try:
            self._do_respond(path_info)
        except Exception as error:
            problem = problem_of(self._told_apart(error))
            problem.respond()
            cherrypy.serving.response.finalize()
        finally:
            self.hooks.run("on_end_resource")
        # Neither label is to take whatever value a client thinks of.
        method = self.method if self.method in KNOWN_METHODS else "other"
        self._on_answer(self.route, method, int(str(cherrypy.serving.response.status)[:3]))

    def _told_apart(self, error: Exception) -> Exception:
        """What CherryPy cannot decode is the client's fault, and 400, whatever it raises."""
        if self.stage not in ("process_headers", "process_query_string"):
            return error
        what = "headers" if self.stage == "process_headers" else "query"
        detail = getattr(error, "_message", f"the {what} cannot be decoded: {error}")
        return Problem(HTTPStatus.BAD_REQUEST, detail)


class Response(_cprequest.Response):  # type: ignore[misc]
    """A response with the headers that every answer has."""

    def __init__(self) -> None:
        super().__init__()
        self.headers.update(EVERY_ANSWER)


def serve(
    settings: Settings,
    routes: Sequence[Route],
    guard: Guard,
    *,
    on_serving: Callable[[str], None],
    on_stop: Callable[[], None],
    on_answer: OnAnswer,
) -> None:
    """Serve until SIGTERM or SIGINT.

    `on_serving` gets the URL once requests are answered; `on_stop` ends what requests may be
    waiting for; `on_answer` is told of each request. Raises OSError if the address cannot be had.
    """
    _check_address(settings.host, settings.port)
    cherrypy.config.update(_config(settings))
    dispatcher = RouteDispatcher(routes, guard)
    application = cherrypy.Application(None, "", {"/": {"request.dispatch": dispatcher}})
    application.request_class = partial(Request, on_answer)
    application.response_class = Response
    # CherryPy would format a line for every request, only to drop it; actions have a log of ours.
    application.log.access = lambda: None
    cherrypy.log.error_log.setLevel(logging.WARNING)
    cherrypy.tree.mount(application)
    cherrypy.server.instance = _server(settings)
    # Before the server's own 25: it waits for its workers, which may wait for libvirt.
    cherrypy.engine.subscribe("stop", on_stop, priority=20)
    for number in _SIGNALS:
        signal.signal(number, _end)
    try:
        cherrypy.engine.start()
        on_serving(_url())
        cherrypy.engine.block()
    except KeyboardInterrupt:
        log.debug("told to end while starting or ending")
    finally:
        cherrypy.engine.exit()


def _end(number: int, frame: FrameType | None) -> None:
    """What the first signal does, also while the engine is still starting.

    Another one would break off the end that it has begun, and leave threads that never end.
    """
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _server(settings: Settings) -> Server:
    """Raises OSError if there is no such certificate or key, or if nobody can use the key."""
    try:
        if settings.certificate:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                settings.certificate, settings.private_key, _refuse_encrypted_key
            )
        server = Server(settings.max_connections)
    except OSError as error:
        raise OSError(
            f"server.ssl_certificate {settings.certificate}, "
            f"server.ssl_private_key {settings.private_key}: {error}"
        ) from error
    if server.ssl_adapter is not None:
        server.ssl_adapter.context.minimum_version = ssl.TLSVersion.TLSv1_2
    return server


def _refuse_encrypted_key() -> bytes:
    """What is called for the passphrase, which OpenSSL would ask for at the terminal."""
    raise OSError("the private key is encrypted, and nobody is here to give its passphrase")


def _config(settings: Settings) -> dict[str, object]:
    return {
        "environment": "production",
        "log.screen": False,
        "server.socket_host": settings.host,
        "server.socket_port": settings.port,
        # Streams and answers to wrong passwords take their time, and so have threads of their own.
        "server.thread_pool": settings.thread_pool + settings.event_streams + WAITING_AT_MOST,
        "server.socket_queue_size": settings.socket_queue_size,
        "server.socket_timeout": settings.socket_timeout,
        "server.max_request_header_size": settings.max_header,
        "server.max_request_body_size": settings.max_body,
        "server.ssl_module": "builtin",
        "server.ssl_certificate": settings.certificate or None,
        "server.ssl_private_key": settings.private_key or None,
        "server.shutdown_timeout": _SHUTDOWN_SECONDS,
    }


def _check_address(host: str, port: int) -> None:
    """Fail early and with the system's own words: CherryPy ends with a traceback."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"cannot listen on {host}:{port}: {error}") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _url() -> str:
    host, port = cherrypy.server.bound_addr
    scheme = "https" if cherrypy.server.ssl_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
