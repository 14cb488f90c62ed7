"""A client of many hosts' watches."""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from threading import Condition
from typing import Self

from mc.hosts.news import News, Subscription
from mc.hosts.watch import Watch


class Subscriber:
    """Follows any number of watches at once, for the length of a block.

    `with Subscriber(watches) as subscriber: subscriber.news(10)`

    A watch that is slow or stuck keeps nobody from hearing of the others.
    """

    def __init__(self, watches: Iterable[Watch]) -> None:
        self._bell = Condition()
        # Those that have news, in the order in which they had.
        self._rung: dict[Watch, None] = {}
        self._parts = {watch: Subscription(partial(self._ring, watch)) for watch in watches}
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for watch, part in self._parts.items():
                stack.callback(watch.unsubscribe, part)
                watch.subscribe(part)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def news(self, seconds: float) -> list[tuple[Watch, list[News]]]:
        """What is new since the last call, as soon as there is any; nothing after so many seconds.

        Of each watch at first everything. Raises `Stopping` when one has been closed.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._bell:
                self._bell.wait_for(lambda: self._rung, max(0, deadline - time.monotonic()))
                rung, self._rung = self._rung, {}
            told = [(watch, news) for watch in rung if (news := watch.news(self._parts[watch]))]
            # What rang may have been told already, with what rang before.
            if told or time.monotonic() >= deadline:
                return told

    def _ring(self, watch: Watch) -> None:
        with self._bell:
            self._rung[watch] = None
            self._bell.notify()
