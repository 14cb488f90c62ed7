"""Wrong passwords: the answer to each comes late, so that guessing takes too long."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from mc.web.server.addresses import network_of

RATE = 4.0
"""Wrong passwords that are answered in a second, whoever they are from, once they come faster."""
LONGEST_IN_LINE = 20.0
"""Seconds that one may wait behind others."""

# Seconds: for the first wrong password of an address, a network or an account, doubled by each
# further one.
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
# Seconds after which a source is forgotten, and how many of each kind are remembered.
_MEMORY_SECONDS, _SOURCES = 600.0, 4096
# Networks: what one organisation mostly has.
_IPV4_PREFIX, _IPV6_PREFIX = 24, 48


@dataclass
class _Source:
    wrong: int = 0
    last: float = float("-inf")


class Attempts:
    """Says when to answer a wrong password: nobody waits here, and right ones never do.

    Each wrong one takes its place in a line that moves by `RATE`, and waits longer for every one
    before it from the same address, from the same network, and for the same account, be there such
    an account or not.
    """

    def __init__(self) -> None:
        self._sources: dict[str, OrderedDict[str, _Source]] = {
            kind: OrderedDict() for kind in ("address", "network", "account")
        }
        self._free_at = 0.0
        self._lock = Lock()

    def wrong(self, address: str, account: str) -> float | None:
        """Take note of a wrong password; the seconds after which to say so.

        None if the line is so long that nothing is to be said at all: else more would be answered,
        and a longer line would only keep honest ones who mistype.
        """
        now = time.monotonic()
        with self._lock:
            sources = (
                self._source("address", network_of(address), now),
                self._source("network", network_of(address, _IPV4_PREFIX, _IPV6_PREFIX), now),
                # A name may be as long as a request; 64 bits stand for it as well.
                self._source("account", str(hash(account)), now),
            )
            own = max(_FIRST_DELAY * 2.0 ** min(source.wrong, 10) for source in sources)
            for source in sources:
                source.wrong += 1
                source.last = now
            turn = max(now + min(own, _LONGEST_DELAY), self._free_at)
            if turn > now + LONGEST_IN_LINE:
                return None
            self._free_at = max(now, self._free_at) + 1 / RATE
            return turn - now

    def _source(self, kind: str, key: str, now: float) -> _Source:
        known = self._sources[kind]
        source = known.get(key)
        if source is None or now - source.last > _MEMORY_SECONDS:
            source = known[key] = _Source()
        known.move_to_end(key)
        if len(known) > _SOURCES:
            known.popitem(last=False)
        return source
