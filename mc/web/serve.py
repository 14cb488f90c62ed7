"""The server, started and stopped by CherryPy's engine."""

import errno
import logging
import os
import signal
import socket
import ssl
import stat
from collections.abc import Callable, Sequence
from types import FrameType

import cherrypy
from cherrypy.process.servers import ServerAdapter

from mc.errors import Unusable, words
from mc.settings import Settings
from mc.web.access.guard import Guard
from mc.web.routing.application import Admission
from mc.web.routing.dispatch import Routes
from mc.web.routing.operation import Route
from mc.web.server.addresses import Proxies
from mc.web.server.http import HTTPServer
from mc.web.server.serving import Limits, Serving

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CERTIFICATE, _PRIVATE_KEY = "server.ssl_certificate", "server.ssl_private_key"
_ADVICE = {
    errno.EADDRINUSE: ": another program is there, or this one already",
    errno.EACCES: ": ports below 1024 are for root, or for who has the capability "
    "CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: ": it is no address of this host",
}


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
    `Unusable` if the address cannot be had, or the certificate not be used.
    """
    tls = tls_context(settings.certificate, settings.private_key) if settings.certificate else None
    listener = listening(settings.host, settings.port, settings.socket_queue_size)
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


def tls_context(certificate: str, private_key: str) -> ssl.SSLContext:
    """Raises `Unusable` if one of them cannot be used, in words of ours where OpenSSL has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client could have us do the costly part of a handshake again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION
    for key, path in ((_CERTIFICATE, certificate), (_PRIVATE_KEY, private_key)):
        _open(key, path)
    try:
        # OpenSSL does not say which of two files is at fault, so the first is read on its own.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise Unusable(_CERTIFICATE, f"{certificate}: it holds no certificate in PEM") from error
    try:
        context.load_cert_chain(certificate, private_key, _refuse_encrypted_key)
    except ssl.SSLError as error:
        raise _refused(error, certificate, private_key) from error
    except OSError as error:
        raise Unusable(_PRIVATE_KEY, f"{private_key}: {words(error)}") from error
    return context


def _open(key: str, path: str) -> None:
    try:
        # Where somebody has put a pipe, opening it would wait for who writes.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise Unusable(key, f"{path}: {words(error)}") from error
    if not is_file:
        raise Unusable(key, f"{path}: it is not a file")


def _refused(error: ssl.SSLError, certificate: str, private_key: str) -> Unusable:
    if error.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return Unusable(_PRIVATE_KEY, f"{private_key}: it is not the key of {certificate}")
    if error.reason:
        # Such as a key that is too short for the level of security that the system asks for.
        reason = error.reason.lower().replace("_", " ")
        return Unusable(_CERTIFICATE, f"{certificate}: OpenSSL refuses it: {reason}")
    return Unusable(_PRIVATE_KEY, f"{private_key}: it holds no private key in PEM")


def _refuse_encrypted_key() -> bytes:
    """What is called for the passphrase, which OpenSSL would ask for at the terminal."""
    raise OSError(
        "the private key is encrypted, and nobody is here to give its passphrase: "
        "`openssl pkey -in KEY -out NEW` takes it away"
    )


def listening(host: str, port: int, queue: int) -> socket.socket:
    """A socket that listens there; for IPv4 as well at `::`. Raises `Unusable`."""
    listener = bound(host, port)
    try:
        listener.listen(queue)
    except OSError as error:
        listener.close()
        raise _not_to_be_had(host, port, error) from error
    return listener


def bound(host: str, port: int) -> socket.socket:
    """A socket of this address, on which nothing listens yet. Raises `Unusable`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        text = f"cannot listen on {_authority(host, port)}: that is no host name"
        raise Unusable("server.socket_host", text) from error
    except OSError as error:
        raise _not_to_be_had(host, port, error) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Connections that outlive the daemon would keep its port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address[0] == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _not_to_be_had(host, port, error) from error
    return listener


def _not_to_be_had(host: str, port: int, error: OSError) -> Unusable:
    key = "server.socket_host"
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        key = "server.socket_port"
    advice = _ADVICE.get(error.errno or 0, "")
    return Unusable(key, f"cannot listen on {_authority(host, port)}: {words(error)}{advice}")


def _url(host: str, port: int, *, is_secure: bool) -> str:
    return f"{'https' if is_secure else 'http'}://{_authority(host, port)}"


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
