"""Jobs: requests to the controller that may outlive the program that ipmi_sim waits for."""

import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable

ANSWER_SECONDS = 0.6
"""When the program ends without an answer, from the start of its process."""

JOB_SECONDS = 120.0
"""How long an action waits for the one before it, and then for the controller."""

PAUSE_SECONDS = 0.1
"""If ipmi_sim has started nothing for so long, nothing has waited in its queue."""

RESEND_SECONDS = 0.9
"""Nothing is repeated before ipmi_sim has been at work for so long: ipmitool waits for a second."""

REPETITION_SECONDS = 10.0
"""After this nothing is a repetition: ipmitool gives up after five tries, a second apart."""

POLL_SECONDS = 0.003


class Failed(Exception):
    """Raised if the controller cannot be asked, or refuses; the text says why."""


class Queue:
    """ipmi_sim's queue, as far as it shows: since when programs have been started without a pause.

    Times are seconds since the system's start, as those of processes are. One program at a time
    decides what to do, until it has left or steps aside.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        ticks = slurp("/proc/self/stat").rpartition(")")[2].split()[19]
        self.now = int(ticks) / os.sysconf("SC_CLK_TCK")
        self.deadline = self.now + ANSWER_SECONDS
        self._since = self.now
        try:
            since, left = map(float, os.pread(self._file, 100, 0).split())
        except ValueError:
            return  # A new file.
        if abs(self.now - left) < PAUSE_SECONDS:
            self._since = since

    def held(self, asked: float) -> bool:
        """Whether what was asked for then may have been repeated, and have waited until now."""
        working = self.now - self._since
        recent = self.now - asked < REPETITION_SECONDS
        return recent and self._since <= asked and working >= RESEND_SECONDS

    def step_aside(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def leave(self) -> None:
        """The next program is started from now on."""
        os.pwrite(self._file, f"{self._since:<30} {clock():<30}".encode(), 0)


class Job:
    """A request to the controller: a file, locked as long as its process runs.

    Its lines: what was asked for, when, and in the end `ok` or `failed` with a value or a reason.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self.name, asked, *_ = self._lines()
        self.asked = float(asked)

    @classmethod
    def latest(cls, path: str) -> "Job | None":
        try:
            return cls(os.open(path, os.O_RDONLY))
        except (FileNotFoundError, ValueError):
            return None

    @classmethod
    def start(
        cls,
        path: str,
        name: str,
        do: Callable[[], str],
        queue: Queue,
        after: "Job | None" = None,
    ) -> "Job":
        """Start the process, which waits for the job before it; that one's file is replaced."""
        new = f"{path}.{os.getpid()}"
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(file, f"{name}\n{queue.now}\n".encode())
        fcntl.flock(file, fcntl.LOCK_EX)
        os.replace(new, path)
        if os.fork() == 0:
            run(file, do, queue, after)
        os.close(file)
        return cls(os.open(path, os.O_RDONLY))

    def running(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def age(self) -> float:
        """Seconds since it ended."""
        return time.time() - os.fstat(self._file).st_mtime

    def ended_by(self, deadline: float) -> bool:
        """Wait for its end, but no longer."""
        while self.running():
            if clock() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def value(self) -> str:
        """What came of a job that has ended. Raises Failed if it failed."""
        outcome, _, value = (self._lines()[2] or "failed it was killed").partition(" ")
        if outcome != "ok":
            raise Failed(value)
        return value

    def _lines(self) -> list[str]:
        return os.pread(self._file, 65536, 0).decode("utf-8", "replace").split("\n")[:3]


def run(file: int, do: Callable[[], str], queue: Queue, after: Job | None) -> None:
    """The process of a job; it does not return. What nobody waits for any more, it logs."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    # Who reads from a pipe, as ipmi_sim does from standard output, waits until all who have it go.
    os.dup2(nowhere, 1)
    if stat.S_ISFIFO(os.fstat(2).st_mode):
        os.dup2(nowhere, 2)
    try:
        if after and not after.ended_by(queue.now + JOB_SECONDS):
            raise Failed(f"'{after.name}', which came first, takes too long")
        outcome = f"ok {do()}"
    except Exception as error:
        words = " ".join(f"{error}".split()) or repr(error)
        outcome = f"failed {words}"
        if clock() > queue.deadline:
            complain(f"failed too late to be told by IPMI: {words}")
    os.write(file, outcome.encode("utf-8", "backslashreplace"))
    os._exit(0)


def complain(words: str) -> None:
    """Log a failure: under systemd ipmi_sim's standard error is the journal."""
    request = " ".join(sys.argv[2:])
    os.write(2, f"libvirt_mc IPMI: {request}: {words}\n".encode("utf-8", "backslashreplace"))


def exchange(path: str, text: str) -> str:
    """Write a text into a file; the text that was in it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    before = os.pread(file, 4096, 0).decode()
    os.truncate(file, 0)
    os.pwrite(file, text.encode(), 0)
    os.close(file)
    return before


def slurp(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
