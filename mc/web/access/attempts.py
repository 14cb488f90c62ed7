"""Wrong passwords: the answer to each comes late, so that guessing takes too long."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from mc.web.addresses import network_of

RATE = 4.0
"""Wrong passwords a second that are answered, whoever they are from, once they come faster."""
MOST = 400
"""As many may be ahead of that rate; then those of whom many are known are not looked at."""

# Seconds: for the first wrong password of an address, a network or an account, doubled by each
# further one; and for one behind others.
_FIRST_DELAY, _LONGEST_DELAY, _LONGEST_IN_LINE = 0.1, 2.0, 20.0
# So many of a network are looked at in any case.
_FEW = 10
# Seconds after which a source is forgotten, and how many of each kind are remembered.
_MEMORY_SECONDS, _SOURCES = 600.0, 4096
# Networks: what one organisation mostly has.
_IPV4_PREFIX, _IPV6_PREFIX = 24, 48


class TooManyAttempts(Exception):
    """Raised if a password is not looked at, since too many wrong ones came from its network."""


@dataclass
class _Source:
    wrong: int = 0
    last: float = float("-inf")


class Attempts:
    """Says when to answer a wrong password: nobody waits here, and right ones never do.

    Each wrong one takes its place in a line that moves by `RATE`, and waits longer for every one
    before it from the same address, from the same network, and for the same account, be there such
    an account or not. Who does not wait for the answers may send more of them; so a limit is set to
    the line, beyond which a network of which few wrong ones are known is still listened to.
    """

    def __init__(self) -> None:
        self._sources: dict[str, OrderedDict[str, _Source]] = {
            kind: OrderedDict() for kind in ("address", "network", "account")
        }
        self._ahead = 0.0
        self._counted_at = time.monotonic()
        self._lock = Lock()

    def check(self, address: str) -> None:
        """Raises `TooManyAttempts` if a password from this address is not to be looked at now."""
        with self._lock:
            if self._line() >= MOST and self._source("network", _network(address)).wrong >= _FEW:
                raise TooManyAttempts

    def wrong(self, address: str, account: str) -> float:
        """Take note of a wrong password; the seconds after which to say so."""
        with self._lock:
            behind = self._line()
            self._ahead += 1
            sources = (
                self._source("address", network_of(address)),
                self._source("network", _network(address)),
                self._source("account", account),
            )
            delay = 0.0
            for source in sources:
                delay = max(delay, _FIRST_DELAY * 2 ** min(source.wrong, 10))
                source.wrong += 1
                source.last = self._counted_at
            return max(min(delay, _LONGEST_DELAY), min(behind / RATE, _LONGEST_IN_LINE))

    def _line(self) -> float:
        """How many wrong passwords are still to be answered, by the rate."""
        now = time.monotonic()
        self._ahead = max(0.0, self._ahead - (now - self._counted_at) * RATE)
        self._counted_at = now
        return self._ahead

    def _source(self, kind: str, key: str) -> _Source:
        """What is known of a source; it is remembered if it is changed soon."""
        known = self._sources[kind]
        source = known.get(key)
        if source is None or self._counted_at - source.last > _MEMORY_SECONDS:
            source = known[key] = _Source()
        known.move_to_end(key)
        if len(known) > _SOURCES:
            known.popitem(last=False)
        return source


def _network(address: str) -> str:
    return network_of(address, _IPV4_PREFIX, _IPV6_PREFIX)
