"""The HTTP server on its own, in this process, with an application of the test's."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from wsgiref.types import WSGIApplication

from mc.web.server.addresses import Proxies
from mc.web.server.http import HTTPServer
from mc.web.server.serving import Limits, Serving

LIMITS = Limits(head=1000, body=1000, segments=4)


@contextmanager
def serving(
    application: WSGIApplication,
    *,
    workers: int = 2,
    connections: int = 100,
    seconds: float = 60,
    proxies: Proxies | None = None,
) -> Iterator[int]:
    """The port of the loopback at which the application is served."""
    listener = socket.create_server(("127.0.0.1", 0))
    how = Serving(LIMITS, workers, connections, seconds, proxies or Proxies())
    server = HTTPServer(application, listener, None, how)
    port = listener.getsockname()[1]
    thread = Thread(target=server.start)
    thread.start()
    try:
        yield port
    finally:
        server.stop()
        thread.join()
