"""A client's connection: what has come over it, and what is still to be sent."""

import logging
import select
import socket
import ssl
import time
from contextlib import suppress
from enum import Enum
from http import HTTPStatus

from mc.web.problems import Problem
from mc.web.server.addresses import network_of, plain
from mc.web.server.headers import head_of
from mc.web.server.incoming import Incoming, Request
from mc.web.server.serving import Limits
from mc.web.server.tls import Channel

log = logging.getLogger(__name__)

# Of bytes of TLS, so many are worked through before anybody else has a turn.
_CHUNK = 1 << 14
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Gone(Exception):
    """Raised if a client does not take what is sent to it, or is not there any more."""


class Holder(Enum):
    """Who a connection belongs to; nobody else touches it."""

    RECEPTION = "the reception"
    WORKER = "a worker"


class Connection:
    """A connection, which the reception and a worker hold in turns; it is never waited for.

    deadline: time of the monotonic clock until which the reception waits for the client.
    held_until: before this time of the same clock the answer is not sent.
    last: whether the connection ends with the answer that is being sent.
    signed_in: whether the last one to say who he is, on this connection, was believed.
    shared: whether a proxy sends requests of many clients over it.
    """

    def __init__(
        self,
        connection: socket.socket,
        tls: Channel | None,
        address: tuple[str, int],
        limits: Limits,
        *,
        is_proxy: bool = False,
    ) -> None:
        self.socket = connection
        self._tls = tls
        self.address, self.port = plain(address[0]), address[1]
        self.network = network_of(self.address)
        self.shared = is_proxy
        self.holder = Holder.RECEPTION
        self.deadline = 0.0
        self.held_until = 0.0
        self.last = False
        self.signed_in = False
        self._incoming = Incoming(limits)
        # A view, so that a long answer is not copied for each part that a slow client takes.
        self._unsent = memoryview(b"")
        self._is_broken = False
        self._said_all = False

    def change_hands(self, giver: Holder, taker: Holder) -> None:
        """Pass it on. Raises RuntimeError, and changes nothing, if it is not the giver's."""
        if self.holder is not giver:
            raise RuntimeError(f"a connection of {self.address} is not with {giver.value}")
        self.holder = taker

    def advance(self) -> int | Request:
        """Send and take what can be: the next request, or the epoll event to wait for.

        Raises EOFError at the end, OSError, or a `Problem` for what can be no request.
        """
        if self._is_broken:
            raise ConnectionAbortedError("it was given up while it was answered")
        try:
            return self._part() if self.last else self._gather()
        except BlockingIOError:
            return select.EPOLLIN

    def _part(self) -> int:
        """Send the rest, tell the client that this was all, and drop what it still sends."""
        if self._tls:
            self._append(self._tls.farewell())
            self._tls = None
        if not self._send():
            return select.EPOLLOUT
        if not self._said_all:
            self.socket.shutdown(socket.SHUT_WR)
            self._said_all = True
        self._receive_bytes()
        return select.EPOLLIN

    def _gather(self) -> int | Request:
        while self._send():
            request = self._incoming.take()
            if request is not None:
                return request
            if self._incoming.expects_continue:
                self._incoming.expects_continue = False
                self.write(_CONTINUE)
            else:
                self._incoming.feed(self._receive())
        return select.EPOLLOUT

    def _receive(self) -> bytes:
        """What the client says; over TLS that may be nothing, though something has come."""
        data = self._receive_bytes()
        if self._tls is None:
            return data
        try:
            said = self._tls.received(data)
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self._tls = None
                raise Problem(HTTPStatus.BAD_REQUEST, "here is only HTTPS") from error
            with suppress(OSError):
                self.socket.send(self._tls.to_send())
            raise
        self._append(self._tls.to_send())
        return said

    def _receive_bytes(self) -> bytes:
        data: bytes = self.socket.recv(_CHUNK)
        if not data:
            raise EOFError
        return data

    @property
    def in_the_middle(self) -> bool:
        """Whether a part of a request has come, and the one before has been answered."""
        return self._incoming.started and not self.last and not self._unsent

    @property
    def is_under_way(self) -> bool:
        """Whether a request is coming in, or its answer going out."""
        return self.in_the_middle or bool(self._unsent)

    @property
    def is_users(self) -> bool:
        """Whether a user has it, as far as one knows; a proxy sends those of strangers as well."""
        return self.signed_in or self.shared

    @property
    def unsent(self) -> int:
        """How many bytes of answers are still to be sent."""
        return len(self._unsent)

    def event_to_wait_for(self) -> int:
        """The epoll event at which to go on: at once if something is here that none announces."""
        if self.held_until:
            # Whoever hangs up meanwhile is heard of.
            return select.EPOLLRDHUP
        has_more = self._unsent or self.last or self._is_broken or self._incoming.started
        return select.EPOLLOUT | select.EPOLLIN if has_more else select.EPOLLIN

    def write(self, data: bytes) -> None:
        """Have this sent after what is still to be sent; it waits for nobody."""
        self._append(self._tls.sealed(data) if self._tls else data)

    def _append(self, data: bytes) -> None:
        self._unsent = memoryview(bytes(self._unsent) + data if self._unsent else data)

    def answer_after(self, seconds: float) -> None:
        """Send the answer that is being made no earlier than this, and keep no worker meanwhile."""
        self.held_until = time.monotonic() + seconds

    def answer_never(self, seconds: float) -> None:
        """Keep the client waiting for as long, and then end the connection."""
        self.answer_after(seconds)
        self.give_up()

    def push(self) -> None:
        """Send what the system takes at once. Raises `Gone`."""
        if not self.held_until:
            self._push()

    def _push(self) -> bool:
        try:
            return self._send()
        except OSError as error:
            self.give_up()
            raise Gone(str(error)) from error

    def finish(self, seconds: float) -> None:
        """Wait until all is sent. Raises `Gone` if that takes longer."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT)
        while not self._push():
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not poll.poll(remaining * 1000):
                self.give_up()
                raise Gone("it does not read")

    def _send(self) -> bool:
        """Send what the system takes at once; whether that is all. Raises OSError."""
        while self._unsent:
            try:
                sent = self.socket.send(self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def give_up(self) -> None:
        """Have the reception end it as it is, in the middle of an answer."""
        self._is_broken = True

    def refuse(self, problem: Problem) -> None:
        """Let an error be the last answer."""
        self.write(refusal(problem, to_head=self._incoming.is_head))
        self.last = True

    def end(self) -> None:
        self.socket.close()


def refusal(problem: Problem, *, to_head: bool) -> bytes:
    """A whole response that is an error, after which the connection ends."""
    body = problem.body()
    status, headers = problem.head(len(body))
    head = head_of(status, [*headers, ("Connection", "close")])
    return head if to_head else head + body
