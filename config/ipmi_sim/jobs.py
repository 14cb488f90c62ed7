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
"""When a power action that has been sent is a success, from the start of the program's process.

ipmitool repeats what is not answered within a second, and a reset must not be done twice.
"""

PATIENT_SECONDS = 2.5
"""When anything else, which may as well be done twice, is a failure.

ipmitool repeats for the second time after three seconds, and takes an answer that comes within ten.
"""

LEAST_ANSWER_SECONDS = 0.2
LEAST_PATIENT_SECONDS = 1.0
"""What the controller gets of these at least, since on a busy host Python alone may take them."""

JOB_SECONDS = 120.0
"""How long an action waits for the one before it, and then for the controller."""

REPEATED_SECONDS = 10.0
"""How long a repetition may wait for ipmi_sim, which may serve other machines before it."""

POLL_SECONDS = 0.003


Expected = dict[str, tuple[float, str]]
"""The requests of which repetitions are expected, until when, and which message is the last one."""


class Failed(Exception):
    """Raised if the controller cannot be asked, or refuses; the text says why."""


class Request:
    """What ipmi_sim asks of a machine, in `words`, and whether that may be `repeated`.

    Who repeats a request has no answer yet; and ipmi_sim reads nothing while a program runs. So
    when the answer is given, the repetitions wait on the machine's port, and none comes after the
    last of what waits there. Whatever an action has come after is no repetition.

    One program at a time decides what to do on a machine, until it steps aside. `deadline` is when
    to answer, and `patience` when to answer this one: what is repeated has been answered meanwhile,
    and others may be waiting.
    """

    def __init__(self, path: str, words: str, deadline: float, port: Port) -> None:
        self.words = words
        self.deadline = deadline
        self._port = port
        self._begun = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        expected = self._expected()
        until, _ = expected.get(words, (0, ""))
        self.repeated = 0 < until - deadline <= REPEATED_SECONDS
        self.patience = 0 if self.repeated else deadline
        if expected:
            waiting = port.waiting()
            # If the last one does not wait any more, this is it, or it was no request.
            self._expect({each: by for each, by in expected.items() if by[1] in waiting})

    def begin(self, action: bool) -> None:
        """It is under way now."""
        self._begun = True
        others = {} if action else self._expected()
        self._expect({**others, self.words: (self.deadline + REPEATED_SECONDS, "")})
        self.step_aside()

    def step_aside(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def leave(self) -> None:
        """The answer is given."""
        if self._begun:
            expected = self._expected()
            waiting = self._port.waiting()
            if waiting:
                expected[self.words] = (self.deadline + REPEATED_SECONDS, waiting[-1])
            else:
                expected.pop(self.words, None)
            self._expect(expected)

    def forget_port(self) -> None:
        """A job may outlive ipmi_sim, whose next process needs the port."""
        self._port.close()

    def _expected(self) -> Expected:
        try:
            expected = json.loads(os.pread(self._file, 4096, 0))
            return {words: (float(until), last) for words, (until, last) in expected.items()}
        except (ValueError, TypeError, AttributeError):
            return {}  # A new file, or one of another version.

    def _expect(self, expected: Expected) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(expected).encode(), 0)


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
        cls,
        path: str,
        request: Request,
        do: Callable[[], str],
        after: "Job | None" = None,
        name: str = "",
    ) -> "Job":
        """Start the process, which waits for the job before it; that one's file is replaced.

        `name` is a second name of the file.
        """
        new = f"{path}.{os.getpid()}"
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(file, f"{request.words}\n".encode())
        fcntl.flock(file, fcntl.LOCK_EX)
        if name:
            os.link(new, f"{name}.{os.getpid()}")
            os.replace(f"{name}.{os.getpid()}", name)
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
