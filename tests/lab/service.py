"""A program that a laboratory runs for as long as it is there: one process at a time."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import keeper, processes
from tests.lab.waiting import until

UNPRIVILEGED_USER = "nobody"
"""Who runs it when root runs the tests: a libvirtd of root would be the system's."""


@dataclass(frozen=True)
class User:
    """The user and group that a laboratory's programs run as."""

    uid: int
    gid: int

    @classmethod
    def unprivileged(cls) -> "User":
        """Whoever runs this, but `nobody` instead of root."""
        if not is_root():
            return cls(os.geteuid(), os.getegid())
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
        return cls(entry.pw_uid, entry.pw_gid)

    def own(self, path: Path) -> None:
        """Give a file or folder to the user; needed only, and done only, when root runs this."""
        if is_root():
            os.chown(path, self.uid, self.gid)


class Service(ABC):
    """One process of a program at a time, below a keeper that ends it whatever becomes of us.

    within: a command that runs another one in namespaces, see `Namespace`. log: what the program
    writes to stderr.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        user: User,
        within: Sequence[str] = (),
    ) -> None:
        self.log = log
        self._name = Path(command[0]).name
        self._pid = 0
        self._keeper = _keeper(command, log, environment, user, within)

    @abstractmethod
    def accepts(self) -> bool:
        """Whether it accepts connections."""

    @property
    def pid(self) -> int:
        """Id of the process; an AssertionError when none runs."""
        assert processes.state(self._pid), f"{self._name} does not run"
        return self._pid

    def start(self, seconds: float = 30) -> None:
        """Start it and wait until it accepts connections.

        Raises AssertionError with its log when it ends or is not ready within the seconds.
        """
        assert not processes.state(self._pid), f"{self._name} runs already"
        assert self._keeper.stdin and self._keeper.stdout
        print(file=self._keeper.stdin, flush=True)
        self._pid = int(self._keeper.stdout.readline() or 0)
        try:
            until(self._is_ready, seconds, f"{self._name} that accepts connections")
        except AssertionError as error:
            error.add_note(f"{self._name} wrote:\n{self.log.read_text(errors='replace')}")
            raise

    def kill(self) -> None:
        """End it by SIGKILL, frozen or not; what it has started runs on."""
        processes.kill(self.pid)

    def kill_all(self) -> None:
        """End it and all that it has started (SIGKILL)."""
        for pid in self.running():
            # One that has ended meanwhile is what is wanted.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(self.running, 10, f"end of what {self._name} has started", lambda left: not left)

    def freeze(self) -> None:
        """Stop it (SIGSTOP): connecting to it still succeeds, but nothing is answered."""
        processes.freeze(self.pid)

    def thaw(self) -> None:
        """Let it run on (SIGCONT)."""
        processes.thaw(self.pid)

    def running(self) -> list[int]:
        """Ids of all its processes: of what it has started as well, orphans among them."""
        return processes.descendants(self._keeper.pid)

    def close(self) -> None:
        """End all its processes, frozen or not; return when they are gone. Harmless twice."""
        with self._keeper as process:
            assert process.stdin
            process.stdin.close()

    def _is_ready(self) -> bool:
        assert processes.state(self._pid), f"{self._name} ended while starting"
        return self.accepts()


def is_root() -> bool:
    """Whether root runs this."""
    return os.geteuid() == 0


def program(name: str, packages: str, *folders: str) -> str:
    """Path of a program that an ordinary user's PATH may lack."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", *folders])
    found = shutil.which(name, path=search)
    assert found, f"{name} is missing: install {packages}"
    return found


def _keeper(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    user: User,
    within: Sequence[str],
) -> subprocess.Popen[str]:
    """The parent of all that is started; its stderr, which they inherit, is the log."""
    identity = (user.uid, user.gid) if is_root() else (-1, -1)
    own_python = [sys.executable, "-I", "-S", keeper.__file__]
    with log.open("ab") as stderr:
        return subprocess.Popen(
            [*within, *own_python, *map(str, identity), *command],
            env=environment,
            cwd=log.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # Ctrl-C in a terminal is for the tests, which then end the laboratory in order.
            start_new_session=True,
        )
