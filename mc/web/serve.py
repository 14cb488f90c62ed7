"""The server, started and stopped by CherryPy's engine."""

import logging
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from types import FrameType

import cherrypy
from cherrypy.process.servers import ServerAdapter

from mc.settings import Settings
from mc.web.access.guard import Guard
from mc.web.addresses import Proxies
from mc.web.application import Admission
from mc.web.dispatch import Routes
from mc.web.operation import Route
from mc.web.server.http import HTTPServer
from mc.web.server.serving import Limits, Serving

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    settings: Settings,
    routes: Sequence[Route],
    guard: Guard,
    *,
    on_serving: Callable[[str], None],
    on_stop: Callable[[], None],
    on_answer: Callable[[str, str, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    `on_serving` gets the URL once requests are answered; `on_stop` ends what requests may be
    waiting for; `on_answer` is told of each request its URL's template, method and status. Raises
    OSError if the address cannot be had.
    """
    tls = _tls(settings.certificate, settings.private_key) if settings.certificate else None
    listener = _listener(settings.host, settings.port, settings.socket_queue_size)
    table = Routes(routes)
    serving = Serving(
        Limits(settings.max_header, settings.max_body, table.most_segments),
        # Streams take their time, and so have threads of their own.
        workers=settings.thread_pool + settings.event_streams,
        connections=settings.max_connections,
        seconds=settings.socket_timeout,
        proxies=Proxies(settings.trusted_proxies),
    )
    server = HTTPServer(Admission(table, guard, on_answer), listener, tls, serving)
    cherrypy.config.update({"environment": "production", "log.screen": False})
    cherrypy.log.error_log.setLevel(logging.WARNING)
    # CherryPy's own server, of cheroot.
    cherrypy.server.unsubscribe()
    ServerAdapter(cherrypy.engine, server).subscribe()
    # Before the server's own 25: it waits for its workers, which may wait for libvirt.
    cherrypy.engine.subscribe("stop", on_stop, priority=20)
    for number in _SIGNALS:
        signal.signal(number, _end)
    try:
        cherrypy.engine.start()
        on_serving(_url(settings.host, listener.getsockname()[1], is_secure=tls is not None))
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


def _tls(certificate: str, private_key: str) -> ssl.SSLContext:
    """Raises OSError if there is no such certificate or key, or if nobody can use the key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client could have us do the costly part of a handshake again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, private_key, _refuse_encrypted_key)
    except OSError as error:
        raise OSError(
            f"server.ssl_certificate {certificate}, server.ssl_private_key {private_key}: {error}"
        ) from error
    return context


def _refuse_encrypted_key() -> bytes:
    """What is called for the passphrase, which OpenSSL would ask for at the terminal."""
    raise OSError("the private key is encrypted, and nobody is here to give its passphrase")


def _listener(host: str, port: int, queue: int) -> socket.socket:
    """A socket that listens there; for IPv4 as well at `::`. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"cannot listen on {host}:{port}: {error}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Connections that outlive the daemon would keep its port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address[0] == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(queue)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _url(host: str, port: int, *, is_secure: bool) -> str:
    scheme = "https" if is_secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
