"""Jobs: requests to the controller that may outlive the program that ipmi_sim waits for."""

import fcntl
import json
import os
import stat
import sys
import time
from collections.abc import Callable

from port import Port

ANSWER_SECONDS = 0.6
"""When the program ends without an answer, from the start of its process."""

JOB_SECONDS = 120.0
"""How long an action waits for the one before it, and then for the controller."""

REPEATED_SECONDS = 10.0
"""How long a repetition may wait for ipmi_sim, which may serve other machines before it."""

POLL_SECONDS = 0.003


class Failed(Exception):
    """Raised if the controller cannot be asked, or refuses; the text says why."""


class Request:
    """What ipmi_sim asks of a machine, in `words`, and whether that may be `repeated`.

    Who repeats a request has no answer yet; and ipmi_sim reads nothing while a program runs. So
    when the answer is given, the repetitions wait on the machine's port, and none comes after the
    `last` of what waits there. One program at a time decides what to do on a machine, until it
    steps aside. `deadline` is when to answer.
    """

    def __init__(self, path: str, words: str, deadline: float, port: Port) -> None:
        self.words = words
        self.deadline = deadline
        self._port = port
        self._begun = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        asked, until, last = self._expected()
        self.repeated = asked == words and 0 < until - deadline <= REPEATED_SECONDS
        if until and last not in port.waiting():
            # This is it, or it was no request.
            self._expect_repetitions(until=0)

    def begin(self) -> None:
        """It is an action that is under way now."""
        self._begun = True
        self._expect_repetitions(until=self.deadline + REPEATED_SECONDS)
        self.step_aside()

    def step_aside(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def leave(self) -> None:
        """The answer is given."""
        if self._begun:
            waiting = self._port.waiting()
            until = self.deadline + REPEATED_SECONDS if waiting else 0
            self._expect_repetitions(until, last=waiting[-1] if waiting else "")

    def forget_port(self) -> None:
        """A job may outlive ipmi_sim, whose next process needs the port."""
        self._port.close()

    def _expected(self) -> tuple[str, float, str]:
        """The action of which repetitions are expected, until when, and which is the last one."""
        try:
            words, until, last = json.loads(os.pread(self._file, 4096, 0))
            return words, float(until), last
        except (ValueError, TypeError):
            return "", 0, ""  # A new file.

    def _expect_repetitions(self, until: float, last: str = "") -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps([self.words, until, last]).encode(), 0)


class Job:
    """A request to the controller: a file, locked as long as its process runs.

    In it is what was asked for, and in the end a line of `ok` or `failed` with a value or a reason.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self.name = self._text()[0]

    @classmethod
    def latest(cls, path: str) -> "Job | None":
        try:
            return cls(os.open(path, os.O_RDONLY))
        except FileNotFoundError:
            return None

    @classmethod
    def start(
        cls, path: str, request: Request, do: Callable[[], str], after: "Job | None" = None
    ) -> "Job":
        """Start the process, which waits for the job before it; that one's file is replaced."""
        new = f"{path}.{os.getpid()}"
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(file, f"{request.words}\n".encode())
        fcntl.flock(file, fcntl.LOCK_EX)
        os.replace(new, path)
        if os.fork() == 0:
            run(file, request, do, after)
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
        outcome, _, value = (self._text()[1] or "failed it was killed").partition(" ")
        if outcome != "ok":
            raise Failed(value)
        return value

    def _text(self) -> tuple[str, str]:
        name, _, outcome = os.pread(self._file, 65536, 0).decode("utf-8", "replace").partition("\n")
        return name, outcome


def run(file: int, request: Request, do: Callable[[], str], after: "Job | None") -> None:
    """The process of a job; it does not return. What nobody waits for any more, it logs."""
    os.setsid()
    request.forget_port()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    # Who reads from a pipe, as ipmi_sim does from standard output, waits until all who have it go.
    os.dup2(nowhere, 1)
    if stat.S_ISFIFO(os.fstat(2).st_mode):
        os.dup2(nowhere, 2)
    try:
        if after and not after.ended_by(request.deadline + JOB_SECONDS):
            raise Failed(f"'{after.name}', which came first, takes too long")
        outcome = f"ok {do()}"
    except Exception as error:
        words = " ".join(f"{error}".split()) or repr(error)
        outcome = f"failed {words}"
        if clock() > request.deadline:
            complain(f"failed too late to be told by IPMI: {words}")
    os.write(file, outcome.encode("utf-8", "backslashreplace"))
    os._exit(0)


def complain(words: str) -> None:
    """Log a failure: under systemd ipmi_sim's standard error is the journal."""
    request = " ".join(sys.argv[2:])
    os.write(2, f"libvirt_mc IPMI: {request}: {words}\n".encode("utf-8", "backslashreplace"))


def slurp(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def clock() -> float:
    """Seconds since the system's start, by which the start of a process is told as well."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def started() -> float:
    """When this process was, by that clock: proc(5), /proc/pid/stat."""
    ticks = slurp("/proc/self/stat").rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")
