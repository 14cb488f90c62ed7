"""Where clients wait: a worker gets a request only when all of it has come.

cheroot gives each new connection to a worker, which waits for the client's next byte; some dozen
slow clients would keep all of them. Here one thread receives for all connections without blocking,
the TLS handshakes included, and sends what clients are slow to take.
"""

import logging
import os
import select
import socket
import ssl
import time
from contextlib import suppress
from http import HTTPStatus
from threading import Event
from typing import Any

import cherrypy
from cherrypy import _cpwsgi_server

from mc.web.problems import Problem
from mc.web.server.connection import Connection, Gateway

log = logging.getLogger(__name__)

# Seconds between two looks at the deadlines.
_SWEEP_SECONDS = 1.0
# What a client gets to read the last answer: a socket closed earlier may take it back.
_PARTING_SECONDS = 2.0
# How many bytes of answers may wait for clients to take them.
_UNSENT_AT_MOST = 1 << 26


class Reception:
    """Takes the place of cheroot's ConnectionManager, and has its methods.

    A client gets the server's `timeout` for a request, from its first byte to its last, as long to
    take the answer, and as long again between two. Beyond `most` connections the one that is
    nearest to its end makes room.
    """

    can_add_keepalive_connection = True

    def __init__(self, server: "Server", most: int) -> None:
        self.server = server
        self._most = most
        self._listener: socket.socket = server.socket
        self._listener.setblocking(False)
        # cheroot does not for port 0; connections that outlive the daemon would keep its port.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._connections: dict[int, Connection] = {}
        self._wake = os.eventfd(0)
        self._epoll = select.epoll()
        for descriptor in (self._listener.fileno(), self._wake):
            self._epoll.register(descriptor, select.EPOLLIN)
        self._stopping = False
        self._ended = Event()
        self._ended.set()

    def run(self, expiration_interval: float) -> None:
        """Receive until told to stop."""
        self._ended.clear()
        swept = time.monotonic()
        while not self._stopping:
            for descriptor, _ in self._epoll.poll(_SWEEP_SECONDS):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._connections:
                    self._attend(self._connections[descriptor])
            if time.monotonic() - swept >= _SWEEP_SECONDS:
                self._sweep()
                swept = time.monotonic()
        self._ended.set()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._ended.wait(_PARTING_SECONDS)

    def close(self) -> None:
        """Close all connections that no worker has."""
        for connection in list(self._connections.values()):
            if connection.waiting:
                self._forget(connection)
        self._epoll.close()
        os.close(self._wake)

    def put(self, connection: Connection) -> None:
        """Wait for the next request of a connection that a worker has answered."""
        connection.deadline = time.monotonic() + self.server.timeout
        if connection.more_to_do():
            self._attend(connection)
        else:
            self._wait(connection, select.EPOLLIN)

    def part_with(self, connection: Connection) -> None:
        """Close a connection as soon as its client has read the last answer."""
        if self._stopping:
            with suppress(OSError):
                connection.wfile.finish(_PARTING_SECONDS)
            self._forget(connection)
            return
        connection.draining = True
        seconds = self.server.timeout if connection.wfile.unsent else _PARTING_SECONDS
        connection.deadline = time.monotonic() + seconds
        self._attend(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Such as too many open files.
                log.warning("a connection was not accepted: %s", error)
                self._make_room()
                return
            if len(self._connections) >= self._most and not self._make_room():
                client.close()
                continue
            try:
                self._welcome(client, address)
            except OSError:
                # It has gone already.
                client.close()

    def _welcome(self, client: socket.socket, address: Any) -> None:
        client.setblocking(False)
        if self.server.ssl_adapter is not None:
            client = self._over_tls(client)
        connection = Connection(self, client, address)
        connection.deadline = time.monotonic() + self.server.timeout
        self._connections[client.fileno()] = connection
        self._epoll.register(client.fileno(), 0)
        self._wait(connection, select.EPOLLIN)

    def _over_tls(self, client: socket.socket) -> socket.socket:
        """The handshake is still to come."""
        context: ssl.SSLContext = self.server.ssl_adapter.context
        return context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)

    def _attend(self, connection: Connection) -> None:
        """Take what has come from a client; give a whole request to a worker."""
        connection.waiting = False
        was_idle = not connection.in_the_middle
        try:
            event = connection.advance()
        except Problem as problem:
            self._refuse(connection, problem)
        except EOFError:
            if connection.in_the_middle:
                self._refuse(connection, Problem(HTTPStatus.BAD_REQUEST, "the request has no end"))
            else:
                self._forget(connection)
        except OSError:
            self._forget(connection)
        except Exception:
            log.exception("a connection from %s was lost", connection.remote_addr)
            self._forget(connection)
        else:
            if not event:
                self.server.process_conn(connection)
                return
            if connection.in_the_middle and was_idle:
                connection.deadline = time.monotonic() + self.server.timeout
            self._wait(connection, event)

    def _wait(self, connection: Connection, event: int) -> None:
        connection.waiting = True
        try:
            # One event only: nothing is heard of a connection while a worker has it.
            self._epoll.modify(connection.socket.fileno(), event | select.EPOLLONESHOT)
        except (OSError, ValueError):
            # The server is stopping, or has made room.
            self._forget(connection)

    def _refuse(self, connection: Connection, problem: Problem) -> None:
        connection.refuse(problem)
        self.part_with(connection)

    def _forget(self, connection: Connection) -> None:
        # Before the close: the next connection may get the same descriptor.
        self._connections.pop(connection.socket.fileno(), None)
        connection.end()

    def _make_room(self) -> bool:
        """Close the connection that would be closed next anyway, if there is one."""
        waiting = [one for one in list(self._connections.values()) if one.waiting]
        if waiting:
            self._forget(min(waiting, key=lambda one: one.deadline))
        return bool(waiting)

    def _sweep(self) -> None:
        """End the wait for clients whose time is over."""
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if not connection.waiting or connection.deadline > now:
                continue
            if connection.in_the_middle:
                problem = Problem(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
                self._refuse(connection, problem)
            else:
                self._forget(connection)
        self._bound_unsent()

    def _bound_unsent(self) -> None:
        """Give up those who take longest, if too much waits for clients that do not read."""
        connections = list(self._connections.values())
        slow = [one for one in connections if one.waiting and one.wfile.unsent]
        slow.sort(key=lambda one: one.deadline, reverse=True)
        while sum(one.wfile.unsent for one in slow) > _UNSENT_AT_MOST:
            self._forget(slow.pop())


class Server(_cpwsgi_server.CPWSGIServer):  # type: ignore[misc]
    """CherryPy's server with a reception."""

    def __init__(self, max_connections: int) -> None:
        """By the settings of `cherrypy.server`."""
        super().__init__(cherrypy.server)
        self.gateway = Gateway
        self._max_connections = max_connections

    def prepare(self) -> None:
        """Bind the address, and start the workers."""
        super().prepare()
        manager: Any = self._connections
        manager.close()
        self._connections: Any = Reception(self, self._max_connections)
