"""What all hosts have in common, shared out so that none of them takes it all."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

from mc.errors import HostBusy, TooMany

# Seconds without any answer after which a host is one that may keep what waits for it.
_SILENT = 0.5
# The part of all that silent hosts leave to the others.
_RESERVE = 8


class Server(Protocol):
    """A host, as far as it may be silent."""

    name: str

    def silent(self) -> float:
        """Seconds since it has answered a command."""


class Shares:
    """So many requests at once, or actions; whoever is one too many is refused at once.

    A host that answers may have them all. One that is silent may have no more than are left, and
    an eighth of them all is left: so some remain for the others.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._lock = Lock()
        self._taken = Counter[str]()

    @contextmanager
    def of(self, host: Server) -> Iterator[None]:
        """Raises `TooMany` if all are taken, `HostBusy` if this host has its share."""
        with self._lock:
            left = self._limit - self._taken.total()
            if left <= 0:
                raise TooMany(self._limit, self._what)
            mine = self._taken[host.name]
            # What nobody has asked says nothing either.
            if mine and mine > left - self._limit // _RESERVE and host.silent() > _SILENT:
                raise HostBusy(mine)
            self._taken[host.name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[host.name] -= 1
