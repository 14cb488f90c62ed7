"""Processes by id, read from /proc: also those that are no children, as QEMU under libvirtd."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from tests.lab.waiting import until


def state(pid: int) -> str:
    """The letter of proc(5): `R` runs, `S` sleeps, `T` is stopped; empty when it is gone.

    `Z` is not gone yet: threads of it may still run and hold its sockets open.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[0]


def freeze(pid: int) -> None:
    """Stop the process (SIGSTOP) and wait until all of it stands still."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state(pid), 10, f"stop of process {pid}", lambda letter: letter == "T")


def thaw(pid: int) -> None:
    """Let a frozen process run on (SIGCONT)."""
    os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    """End the process (SIGKILL, which also ends a frozen one) and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: state(pid), 10, f"end of process {pid}", lambda letter: not letter)


def descendants(pid: int) -> list[int]:
    """Ids of the processes below it at this moment, of which some may have ended."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread, or the whole of it, may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, file.read_text().split()):
                found += [child, *descendants(child)]
    return found
