"""A host that has more to do than it has processors."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOOPS = 4
SPIN = "import time; end = time.monotonic() + 200\nwhile time.monotonic() < end: pass"


@contextmanager
def busy_host() -> Iterator[None]:
    """More to do than most hosts have processors; each loop ends by itself as well."""
    loops = [subprocess.Popen([sys.executable, "-I", "-S", "-c", SPIN]) for _ in range(LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
