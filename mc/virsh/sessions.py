"""All virsh sessions of one host."""

import time
from collections.abc import Callable
from dataclasses import replace

from mc.virsh.gate import Gate
from mc.virsh.layout import Bounds, Layout
from mc.virsh.pool import Pool, SessionCounts, Shared
from mc.virsh.session import Session


class Sessions:
    """The pools of a host, by what they are for, and when their sessions end.

    A `test:` URI has one session for everything, whatever the layout: the state of the embedded
    hypervisor lives in its connection, and ends with it.
    """

    def __init__(
        self, binary: str, uri: str, layout: Layout, gate: Gate, connect_seconds: float
    ) -> None:
        self._idle_seconds = layout.idle_seconds
        self._pools: dict[str, Pool] = {}
        shared = Shared(lambda: Session(binary, uri), gate, connect_seconds, layout.waiting)
        self._shared = shared
        name = "read"
        if uri.startswith("test:"):
            name = "all"
            one = Bounds(1, 1, patience=0)
            layout = replace(layout, reading=one, listing=None, acting=None, drawing=None)

        def pool(name: str, bounds: Bounds | None) -> Pool:
            if bounds is None:
                return self.reading
            self._pools[name] = Pool(shared, bounds)
            return self._pools[name]

        self.reading = pool(name, layout.reading)
        self.listing = pool("list", layout.listing)
        self.acting = pool("act", layout.acting)
        self.drawing = pool("draw", layout.drawing)
        # Those that were told to end and are yet to be reaped.
        self._ending: list[Session] = []

    def counts(self) -> dict[str, SessionCounts]:
        """How many there are in each pool."""
        return {name: pool.counts() for name, pool in self._pools.items()}

    def wake_all(self) -> None:
        """Have whoever waits for a session ask the gate again."""
        self._shared.wake_all()

    def tidy(self) -> None:
        """Tell those to end that have been idle too long, or were lost; the next call reaps them.

        Nothing is waited for if that is a second later.
        """
        idle_since = time.monotonic() - self._idle_seconds
        with self._shared.lock:
            told = self._take_ending()
            self._end(lambda pool: pool.spare(idle_since))
        for session in told:
            session.close()

    def stop(self) -> None:
        """Tell all to end, and return at once. Callers are refused, commands under way fail."""
        with self._shared.lock:
            self._shared.closed = True
            self._end(Pool.stop)

    def close(self) -> None:
        """Stop, and wait until those that nobody uses have ended: a second at most."""
        self.stop()
        for session in self._take_ending():
            session.close()

    def _end(self, which: Callable[[Pool], list[Session]]) -> None:
        for pool in self._pools.values():
            for session in which(pool):
                session.end()
                self._ending.append(session)

    def _take_ending(self) -> list[Session]:
        with self._shared.lock:
            ending, self._ending = self._ending, []
        return ending
