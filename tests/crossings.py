"""The daemon, counting how often a request passes between our code and the libraries.

`python -m tests.crossings URI` serves. At SIGUSR1 it begins to count the calls, either way, by
function; at the next one it prints them as JSON. The standard library is one of the libraries.
"""

import json
import signal
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

from mc.daemon import run
from mc.settings import HostSettings, Settings

_OURS = str(Path(__file__).parent.parent / "mc")


class Crossings:
    """Counts, while it is on, in each thread that is started after it was made."""

    def __init__(self) -> None:
        self._is_on = False
        self._counts: dict[str, int] = defaultdict(int)
        # Of each thread, for each call under way, whether it is one of ours.
        self._stacks: dict[int, list[bool]] = defaultdict(list)
        threading.setprofile(self._profile)

    def toggle(self, *_: object) -> None:
        self._is_on = not self._is_on
        if not self._is_on:
            print(json.dumps(self._counts), flush=True)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if not self._is_on or event not in ("call", "return"):
            return
        stack = self._stacks[threading.get_ident()]
        if event == "return":
            del stack[-1:]
            return
        code = frame.f_code
        # Methods that dataclasses and named tuples make are in no file.
        is_ours = code.co_filename.startswith(_OURS) or code.co_filename == "<string>"
        if stack and stack[-1] != is_ours:
            self._counts[f"{Path(code.co_filename).name}: {code.co_name}"] += 1
        stack.append(is_ours)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, Crossings().toggle)
    run(Settings(hosts=(HostSettings(uri=sys.argv[1]),), port=0, thread_pool=2))
