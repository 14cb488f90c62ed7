"""The HTTP server that CherryPy's engine starts and stops."""

import logging
import socket
import ssl
import time
from queue import SimpleQueue
from threading import Event, Thread
from wsgiref.types import WSGIApplication

from mc.web.server.connection import Connection
from mc.web.server.gateway import Gateway
from mc.web.server.incoming import Request
from mc.web.server.reception import Reception
from mc.web.server.serving import Serving

log = logging.getLogger(__name__)

# Seconds for the end: those who are being answered get two of them.
_PATIENCE = 3.0


class HTTPServer:
    """Serves an application at a socket that listens already, over TLS if there is a context.

    It is what `cherrypy.process.servers.ServerAdapter` takes for a server.
    """

    ready = True

    def __init__(
        self,
        application: WSGIApplication,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        serving: Serving,
    ) -> None:
        scheme = "https" if tls else "http"
        self._gateway = Gateway(application, listener.getsockname()[:2], scheme, serving)
        self._requests: SimpleQueue[tuple[Connection, Request] | None] = SimpleQueue()
        self._reception = Reception(listener, tls, serving, self._requests.put)
        self._ended = Event()
        # They do not keep the process from ending, if one hangs in spite of everything.
        self._workers = [
            Thread(target=self._work, name=f"worker {number}", daemon=True)
            for number in range(serving.workers)
        ]

    def start(self) -> None:
        """Serve until `stop` is called by another thread."""
        for worker in self._workers:
            worker.start()
        try:
            self._reception.run()
        finally:
            for _ in self._workers:
                self._requests.put(None)
            self._ended.set()

    def stop(self) -> None:
        """Accept nothing more, and return when what is being answered has been, or soon anyway."""
        self._reception.stop()
        deadline = time.monotonic() + _PATIENCE
        self._ended.wait(_PATIENCE)
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (handed_over := self._requests.get()) is not None:
            connection, request = handed_over
            try:
                self._gateway.answer(connection, request)
                self._reception.take_back(connection)
            except Exception:
                log.exception("a connection from %s is left alone", connection.address)
