"""The resource that tells what changes, for as long as one listens: Server-Sent Events.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus

import cherrypy

from mc.errors import Stopping
from mc.hosts.host import Host
from mc.hosts.news import Changed, Everything, Gone, News, Reach
from mc.hosts.subscriber import Subscriber
from mc.hosts.watch import Watch
from mc.web.problems import encoded
from mc.web.routing.operation import Stream, operation
from mc.web.server.gateway import CONNECTION
from mc.web.service import schemas
from mc.web.service.controller import Controller, ServiceResource
from mc.web.service.hosts import told

# A browser connects anew after so many milliseconds.
_RETRY = b"retry: 1000\n\n"
_SIGN_OF_LIFE = b": \n\n"
# Seconds between two signs of life, and between two looks whether the client is still there.
_HEARTBEAT, _LOOK = 10.0, 1.0
# Milliseconds for which a client's system may leave unacknowledged what was sent to it.
_UNACKNOWLEDGED = 30000
# Bytes that may wait in the system for a client that does not read, which Linux doubles.
_UNREAD = 1 << 16


class Events(ServiceResource):
    """What changes about the machines. There is no HEAD, which would not end either."""

    @operation(
        "What changes, as Server-Sent Events",
        answer={"type": "string"},
        errors=(*schemas.HOST_ERRORS, HTTPStatus.SERVICE_UNAVAILABLE),
        media_type="text/event-stream",
    )
    def GET(self, host: str | None = None) -> Stream:
        controller = self._controller
        hosts = controller.hosts.of(host)
        with ExitStack() as stack:
            stack.enter_context(controller.streams.place())
            subscriber = stack.enter_context(Subscriber(each.watch for each in hosts))
            request = cherrypy.serving.request
            chunks = EventStream(
                controller,
                {each.watch: each for each in hosts},
                subscriber,
                request.wsgi_environ[CONNECTION].socket,
                request.membership(),
                stack.pop_all(),
            )
        # nginx collects what it passes on unless it is told not to.
        cherrypy.serving.response.headers["X-Accel-Buffering"] = "no"
        return Stream("text/event-stream", chunks)


class EventStream(Iterator[bytes]):
    """The stream for one client. It ends with the client or the daemon; `close` frees its place.

    A client that has closed its connection, or whose account has gone or changed, is noticed within
    a second or two. To one that does not read, a write fails after the server's time-out; one whose
    system does not answer any more is cut off by ours.
    """

    def __init__(
        self,
        controller: Controller,
        hosts: Mapping[Watch, Host],
        subscriber: Subscriber,
        connection: socket.socket,
        is_admitted: Callable[[], bool],
        cleanup: ExitStack,
    ) -> None:
        self._controller = controller
        self._hosts = hosts
        self._subscriber = subscriber
        self._is_admitted = is_admitted
        self._cleanup = cleanup
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
        self._hang_up = select.poll()
        self._hang_up.register(connection, select.POLLRDHUP)
        self._first = True
        self._sent_at = 0.0

    def __next__(self) -> bytes:
        chunk = _RETRY if self._first else self._wait_for_chunk()
        self._first = False
        self._sent_at = time.monotonic()
        return chunk

    def close(self) -> None:
        self._cleanup.close()

    def _wait_for_chunk(self) -> bytes:
        while self._is_admitted() and not self._hang_up.poll(0):
            try:
                news = self._subscriber.news(_LOOK)
            except Stopping:
                break
            if news:
                return b"".join(
                    event
                    for watch, several in news
                    for one in several
                    for event in self._events(self._hosts[watch], one)
                )
            if time.monotonic() - self._sent_at >= _HEARTBEAT:
                return _SIGN_OF_LIFE
        raise StopIteration

    def _events(self, host: Host, news: News) -> Iterator[bytes]:
        describe = self._controller.describe
        match news:
            case Reach(trouble):
                detail = {} if trouble is None else {"detail": trouble}
                yield _event("libvirt", {"host": host.name, "reachable": trouble is None, **detail})
                yield _event("host", told(self._controller, host))
            case Everything(machines):
                # Whose machines these are is said before: there may be none.
                if self._controller.hosts.many:
                    yield _event("host", told(self._controller, host))
                yield _event("machines", [describe(host, machine) for machine in machines])
            case Changed(machine):
                yield _event("machine", describe(host, machine))
            case Gone(uuid):
                yield _event("gone", {"host": host.name, "uuid": uuid})


def _event(name: str, data: object) -> bytes:
    """One event; JSON on one line has no line end in it."""
    return b"event: " + name.encode("ascii") + b"\ndata: " + encoded(data) + b"\n\n"
