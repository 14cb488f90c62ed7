"""The one way of waiting in the tests: look every 20 ms, until a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

INTERVAL = 0.02
"""Seconds between two looks."""

T = TypeVar("T")


def until(
    read: Callable[[], T], seconds: float, what: str, holds: Callable[[T], object] = bool
) -> T:
    """Call `read` until its value holds, and return that value.

    Raises AssertionError after so many seconds; it names `what` was awaited and the last value.
    """
    deadline = time.monotonic() + seconds
    while not holds(value := read()):
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {seconds:g} s; last value: {value!r}")
        time.sleep(INTERVAL)
    return value
