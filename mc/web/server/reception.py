"""Where clients wait: a worker gets a request only when all of it has come.

One thread receives for all connections without blocking, the TLS handshakes included, and sends
what clients are slow to take. A connection belongs to this thread or to one worker, never to both:
`_hand_over` and `take_back` are the only two places where it changes hands. This thread alone opens
and closes connections, and accepts new ones only when it has attended to all that it heard of, so
that a descriptor which is used again cannot be taken for what it was before.
"""

import logging
import os
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from threading import Lock

from mc.web.problems import Problem, unforeseen
from mc.web.server.addresses import plain
from mc.web.server.connection import Connection, Holder
from mc.web.server.incoming import Request
from mc.web.server.serving import Serving
from mc.web.server.tls import Channel

log = logging.getLogger(__name__)

# Seconds between two looks at the deadlines, and while it is ending.
_SWEEP_SECONDS, _ENDING_SWEEP_SECONDS = 0.5, 0.05
# What a client gets to read the last answer: a socket closed earlier may take it back.
_PARTING_SECONDS = 2.0
# How many bytes of answers may wait for clients to take them.
_UNSENT_AT_MOST = 1 << 26
# New connections before those that are there are attended to again.
_ACCEPTED_AT_ONCE = 16
# Of all connections that there may be, the share that one address may have.
_SHARE = 3 / 4
# Seconds between two log lines that say the same.
_LOG_SECONDS = 10.0


class Reception:
    """Receives requests, gives each to `hand_over`, and gets its connection back by `take_back`.

    A client gets its seconds for a request from the first byte to the last, as many to take the
    answer, and as many again between two. Where there are as many connections as may be, the next
    one takes the place of another: of the address that has most, the one that is nearest to its
    end. A request of a user who is signed in, or that a trusted proxy hands on, keeps its place.
    """

    def __init__(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        serving: Serving,
        hand_over: Callable[[tuple[Connection, Request]], None],
    ) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._tls = tls
        self._to_worker = hand_over
        self._limits = serving.limits
        self._seconds = serving.seconds
        self._most = serving.connections
        self._most_of_one = max(1, int(serving.connections * _SHARE))
        self._proxies = serving.proxies
        self._connections: dict[int, Connection] = {}
        self._by_network: Counter[str] = Counter()
        self._not_logged_until = 0.0
        self._not_logged = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        for descriptor in (self._listener.fileno(), self._wake):
            self._epoll.register(descriptor, select.EPOLLIN)
        # Under it, whoever sees that a connection is ours sees that it is listened to as well, and
        # whoever sees that we are open may wake us.
        self._lock = Lock()
        self._ends_at: float | None = None

    def stop(self) -> None:
        """Have `run` return as soon as what is being answered has been answered, or soon anyway."""
        with self._lock:
            self._ends_at = time.monotonic() + _PARTING_SECONDS
            if not self._epoll.closed:
                os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Receive until told to stop."""
        swept = time.monotonic()
        while not self._is_over():
            pause = _SWEEP_SECONDS if self._ends_at is None else _ENDING_SWEEP_SECONDS
            is_called = False
            for descriptor, _ in self._epoll.poll(pause):
                if descriptor == self._listener.fileno():
                    is_called = True
                elif descriptor == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._try_to_attend(self._connections[descriptor])
            if is_called:
                self._accept()
            if self._ends_at is not None or time.monotonic() - swept >= _SWEEP_SECONDS:
                self._sweep()
                swept = time.monotonic()
        self._close()

    def take_back(self, connection: Connection) -> None:
        """From a worker, which has answered and touches it no more."""
        with self._lock:
            connection.change_hands(Holder.WORKER, Holder.RECEPTION)
            if self._epoll.closed:
                connection.end()
                return
            connection.deadline = max(time.monotonic(), connection.held_until) + self._seconds
            self._listen_to(connection, connection.event_to_wait_for())

    def _hand_over(self, connection: Connection, request: Request) -> None:
        """To a worker: until it is taken back nothing here touches it, and no event tells of it."""
        connection.change_hands(Holder.RECEPTION, Holder.WORKER)
        self._to_worker((connection, request))

    def _listen_to(self, connection: Connection, event: int) -> None:
        # One event only: nothing is heard of a connection while a worker has it.
        self._epoll.modify(connection.socket.fileno(), event | select.EPOLLONESHOT)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Such as too many open files.
                self._complain(error)
                if not self._make_room():
                    # Until the next sweep; what is to be accepted would be told again and again.
                    self._epoll.modify(self._listener.fileno(), 0)
                return
            try:
                self._welcome(client, address)
            except OSError:
                # It has gone already.
                client.close()

    def _complain(self, error: OSError) -> None:
        """Once in a while: strangers cause as many of these as they like."""
        self._not_logged += 1
        if time.monotonic() < self._not_logged_until:
            return
        log.warning("connections not accepted: %d, at last by: %s", self._not_logged, error)
        self._not_logged = 0
        self._not_logged_until = time.monotonic() + _LOG_SECONDS

    def _welcome(self, client: socket.socket, address: tuple[str, int]) -> None:
        client.setblocking(False)
        is_proxy = self._proxies.trusts(plain(address[0]))
        tls = Channel(self._tls) if self._tls else None
        connection = Connection(client, tls, address, self._limits, is_proxy=is_proxy)
        if not self._has_room_for(connection):
            client.close()
            return
        connection.deadline = time.monotonic() + self._seconds
        self._epoll.register(client.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
        self._connections[client.fileno()] = connection
        self._by_network[connection.network] += 1

    def _has_room_for(self, connection: Connection) -> bool:
        mine = connection.network
        if not connection.shared and self._by_network[mine] >= self._most_of_one:
            return self._make_room(mine)
        return len(self._connections) < self._most or self._make_room()

    def _make_room(self, network: str | None = None) -> bool:
        """Close a connection of this network, or of any; whether there was one that could be.

        First those to which nothing is to be said for a while, since a password was wrong; then of
        whoever has most, those of nobody who is signed in first.
        """
        spare = [
            one
            for one in self._ours()
            if network in (None, one.network)
            and (one.held_until or not (one.is_users and one.is_under_way))
        ]

        def steadiness(one: Connection) -> tuple[bool, int, bool, float]:
            have = self._by_network[one.network]
            return not one.held_until, -have, one.is_users, one.deadline

        if spare:
            self._forget(min(spare, key=steadiness))
        return bool(spare)

    def _ours(self) -> list[Connection]:
        """The connections that no worker has."""
        with self._lock:
            return [one for one in self._connections.values() if one.holder is Holder.RECEPTION]

    def _try_to_attend(self, connection: Connection) -> None:
        """Nothing that one connection causes ends the service for all others."""
        try:
            self._attend(connection)
        except Exception:
            log.exception("a connection from %s is left alone", connection.address)

    def _attend(self, connection: Connection) -> None:
        """Take what has come from a client; give a whole request to a worker."""
        # Changes nothing: whoever has it, here it may be touched by the reception alone.
        connection.change_hands(Holder.RECEPTION, Holder.RECEPTION)
        if connection.held_until:
            # It can only be heard of because its client has gone.
            self._forget(connection)
            return
        was_idle = not connection.in_the_middle
        try:
            come = connection.advance()
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
            log.exception("a request from %s was not understood", connection.address)
            self._refuse(connection, unforeseen())
        else:
            if isinstance(come, Request):
                self._hand_over(connection, come)
                return
            now = time.monotonic()
            if connection.in_the_middle and was_idle:
                connection.deadline = now + self._seconds
            elif connection.last and not connection.unsent:
                connection.deadline = min(connection.deadline, now + _PARTING_SECONDS)
            self._listen_to(connection, come)

    def _refuse(self, connection: Connection, problem: Problem) -> None:
        connection.refuse(problem)
        connection.deadline = time.monotonic() + self._seconds
        self._listen_to(connection, connection.event_to_wait_for())

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection.socket.fileno()]
        self._by_network[connection.network] -= 1
        if not self._by_network[connection.network]:
            del self._by_network[connection.network]
        connection.end()

    def _sweep(self) -> None:
        """End the wait for clients whose time is over, and send what was held until now."""
        now = time.monotonic()
        if self._ends_at is None:
            self._epoll.modify(self._listener.fileno(), select.EPOLLIN)
        for connection in self._ours():
            if connection.held_until and (connection.held_until <= now or self._ends_at):
                connection.held_until = 0.0
                self._listen_to(connection, connection.event_to_wait_for())
            elif self._ends_at and not connection.unsent:
                self._forget(connection)
            elif connection.deadline <= now:
                self._end_wait(connection)
        self._bound_unsent()

    def _end_wait(self, connection: Connection) -> None:
        if connection.in_the_middle:
            problem = Problem(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
            self._refuse(connection, problem)
        else:
            self._forget(connection)

    def _bound_unsent(self) -> None:
        """Give up those who take longest, if too much waits for clients that do not read."""
        slow = [one for one in self._ours() if one.unsent]
        slow.sort(key=lambda one: one.deadline, reverse=True)
        while sum(one.unsent for one in slow) > _UNSENT_AT_MOST:
            self._forget(slow.pop())

    def _is_over(self) -> bool:
        """Whether it is to end, and nobody is being answered or has had the time for it."""
        if self._ends_at is None:
            return False
        if self._listener.fileno() >= 0:
            self._epoll.unregister(self._listener.fileno())
            self._listener.close()
        return not self._connections or time.monotonic() >= self._ends_at

    def _close(self) -> None:
        for connection in self._ours():
            self._forget(connection)
        with self._lock:
            self._epoll.close()
            os.close(self._wake)
