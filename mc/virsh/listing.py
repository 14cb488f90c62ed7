"""The list of all machines of a libvirt, read without waiting."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mc.errors import ControllerError, NoAnswer, Unavailable
from mc.virsh.gate import Gate
from mc.virsh.pool import Pool, Waiter
from mc.virsh.quoting import decode
from mc.virsh.session import Session

LIST = ("list", "--all", "--uuid", "--id", "--name")
DOMSTATS = ("domstats", "--state", "--nowait")
COMMANDS = "; ".join(" ".join(command) for command in (DOMSTATS, LIST))


@dataclass(frozen=True)
class Listed:
    """A machine in virsh's list: `id` is None when it is off."""

    uuid: str
    id: int | None
    name: str


class Listing:
    """All machines and their states, asked of libvirt by one line, for a caller who never waits.

    `proceed` whenever there is something to read from the `descriptors`, which change meanwhile,
    until it is over. Where all sessions are taken, it stands in line with whoever else wants one.
    There is no deadline: whoever is late may go on with the same one. Raises at once what the gate
    raises, `Unreachable` if virsh cannot be started, `Stopping`. `on_end` gets the seconds since
    libvirt was asked, whatever came of it.
    """

    def __init__(self, pool: Pool, gate: Gate, on_end: Callable[[float], None]) -> None:
        self._pool = pool
        self._gate = gate
        self._on_end = on_end
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waiter = Waiter(lambda: os.eventfd_write(self._bell, 1))
        self._session: Session | None = None
        self._connects = False
        self._begun = 0.0
        self._out = b""
        self._error: ControllerError | None = NoAnswer(COMMANDS)
        self._is_over = False
        if self.proceed() and self._error:
            raise self._error

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What to poll for reading; empty when it is over."""
        if self._is_over:
            return ()
        return self._session.descriptors if self._session else (self._bell,)

    def proceed(self) -> bool:
        """Do what can be done at once; whether it is over."""
        if self._is_over:
            return True
        try:
            if self._session is None:
                self._seek()
            if self._session and self._session.receive():
                self._out = self._session.result()
                self._end(None)
        except ControllerError as error:
            self._end(error)
        return self._is_over

    def result(self) -> tuple[list[Listed], dict[str, int]]:
        """The machines in libvirt's order, and the numbers of their states by name.

        Raises `Refused` with libvirt's words, or `Unavailable`: `NoAnswer` while it is not over.
        """
        if self._error:
            raise self._error
        return parsed(self._out)

    def close(self) -> None:
        """Leave it. A session in the middle of an answer is ended, and the gate told so."""
        if not self._is_over:
            self._end(self._error)

    def _seek(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._session = self._pool.seek(self._waiter)
        if self._session:
            self._pool.leave(self._waiter)
            self._connects = not self._session.connected
            self._begun = time.monotonic()
            self._session.begin(DOMSTATS, LIST)

    def _end(self, error: ControllerError | None) -> None:
        self._is_over = True
        self._error = error
        self._pool.leave(self._waiter)
        os.close(self._bell)
        session, self._session = self._session, None
        if session is None:
            return
        self._on_end(time.monotonic() - self._begun)
        if self._connects:
            self._pool.settle(error if isinstance(error, Unavailable) else None, self._begun)
        elif isinstance(error, NoAnswer):
            self._gate.suspect()
        self._pool.give_back(session)


def parsed(out: bytes) -> tuple[list[Listed], dict[str, int]]:
    r"""What virsh says to `DOMSTATS`, `LIST`, or both.

    >>> parsed(b"Domain: 'a'\n  state.state=5\n  state.reason=0\n\n6d63 - a\n")
    ([Listed(uuid='6d63', id=None, name='a')], {'a': 5})
    """
    listed, states, name = [], {}, ""
    for line in decode(out).split("\n"):
        if line.startswith("Domain: '"):
            name = line[len("Domain: '") : -1]
        elif line.startswith("  state.state="):
            states[name] = int(line.rpartition("=")[2])
        elif line and not line.startswith("  "):
            uuid, number, named = line.split(" ", 2)
            listed.append(Listed(uuid, None if number == "-" else int(number), named))
    return listed, states
