"""The parent of all of a laboratory's processes: run as a program, it starts, reaps and ends them.

Usage: `python keeper.py UID GID PROGRAM ARGUMENT...`. UID and GID -1 keep those of the caller. Each
line on stdin starts PROGRAM once more, and its process id is the answer, a line on stdout. At the
end of stdin, so also when the tests themselves were killed, every process below this one is killed.

Why it exists: libvirt makes QEMU an orphan, and takes a zombie for a living process. Orphans go to
process 1, which in a container reaps them late or never: `destroy` then takes seconds or fails.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans among the descendants become children of this process."""


def main(arguments: list[str]) -> None:
    """Serve stdin, then end all children."""
    uid, gid = int(arguments[0]), int(arguments[1])
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")
    signal.signal(signal.SIGCHLD, lambda number, frame: reap())
    started = []  # Popen objects, kept so that none of them waits for a process already reaped
    for _ in sys.stdin:
        started.append(start(arguments[2:], uid, gid))
        print(started[-1].pid, flush=True)
    while reap():
        for child in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def start(command: list[str], uid: int, gid: int) -> subprocess.Popen[bytes]:
    """Start the command with its output on stderr, as the given user and without other groups."""
    if uid < 0:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=uid,
        group=gid,
        extra_groups=[],
    )


def children() -> list[int]:
    """Ids of the children that there are at this moment."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def reap() -> bool:
    """Take note of all children that have ended; whether any child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
