"""Wrong passwords: each is answered late, so that guessing takes too long."""

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from threading import Event, Lock

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
# Seconds after which an address is forgotten, and how many are remembered.
_MEMORY_SECONDS = 600.0
_ADDRESSES = 1024
# How many answers of one address may wait, and of all together: each keeps a thread.
WAITING_OF_ONE, WAITING_AT_MOST = 24, 32
# One household of IPv6 has at least this prefix to choose addresses from (RFC 6177).
_IPV6_PREFIX = 64


class TooManyAttempts(Exception):
    """Raised if too many wrong passwords of an address are still to be answered."""


@dataclass
class _Source:
    wrong: int = 0
    waiting: int = 0
    last: float = 0.0
    deaf_until: float = 0.0


class Attempts:
    """Delays answers to wrong passwords, of 0.1 s for the first to 2 s, by address.

    Right ones are not delayed. While as many answers of an address wait as may, its passwords are
    not looked at: else it could guess in parallel. Where all places to wait are taken, the answer
    to a wrong one comes at once, but for the delay nobody looks at the next.
    """

    def __init__(self) -> None:
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._waiting = 0
        self._lock = Lock()
        self._stopped = Event()

    def stop(self) -> None:
        """Let all go that wait."""
        self._stopped.set()

    def check(self, address: str) -> None:
        """Raises `TooManyAttempts` if this address is not to be listened to now."""
        with self._lock:
            source = self._sources.get(_network(address))
            if source and (source.waiting >= WAITING_OF_ONE or self._is_deaf_to(source)):
                raise TooManyAttempts

    def _is_deaf_to(self, source: _Source) -> bool:
        full = source.waiting > 0 and self._waiting >= WAITING_AT_MOST
        return full or time.monotonic() < source.deaf_until

    def punish(self, address: str) -> None:
        """Wait for as long as the wrong passwords of this address so far make it.

        Raises `TooManyAttempts` at once if no place to wait in is left: others of this address
        may have passed `check` at the same time.
        """
        with self._place(_network(address)) as delay:
            self._stopped.wait(delay)

    @contextmanager
    def _place(self, network: str) -> Iterator[float]:
        """A place to wait in, and for how long."""
        with self._lock:
            source = self._noted(network)
            delay = min(_FIRST_DELAY * 2 ** min(source.wrong - 1, 10), _LONGEST_DELAY)
            if source.waiting >= WAITING_OF_ONE or self._waiting >= WAITING_AT_MOST:
                source.deaf_until = time.monotonic() + delay
                raise TooManyAttempts
            source.waiting += 1
            self._waiting += 1
        try:
            yield delay
        finally:
            with self._lock:
                source.waiting -= 1
                self._waiting -= 1

    def _noted(self, network: str) -> _Source:
        """What is known of an address, with one wrong password more."""
        now = time.monotonic()
        source = self._sources.get(network)
        if source is None or now - source.last > _MEMORY_SECONDS:
            source = self._sources[network] = _Source()
        self._sources.move_to_end(network)
        if len(self._sources) > _ADDRESSES:
            self._sources.popitem(last=False)
        source.wrong += 1
        source.last = now
        return source


def _network(address: str) -> str:
    """The part of an address that its owner cannot choose.

    >>> _network("192.0.2.7"), _network("2001:db8:1:2:3::4") == _network("2001:db8:1:2:ff::1")
    ('192.0.2.7', True)
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and not parsed.ipv4_mapped:
        return str(int(parsed) >> (128 - _IPV6_PREFIX))
    return address
