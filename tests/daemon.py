"""The daemon as its users meet it: a process, its URL, and what it logs."""

import http.client
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

PROGRAM = Path(__file__).parent.parent / "libvirt_mc.py"
_PATIENCE = 30.0

READS = frozenset(
    {
        *("domid", "dominfo", "domjobinfo", "domname", "domstate", "domstats", "domuuid"),
        *("dumpxml", "hostname", "list", "managedsave-dumpxml", "nodedev-dumpxml", "screenshot"),
    }
)
"""The virsh commands that change nothing."""


def destroy(number: int, *, graceful: bool = False) -> str:
    """How the log shows that virsh was told to end the run of this number, and no other."""
    return f"destroy --domain {number:0256}" + " --graceful" * graceful


@dataclass(frozen=True)
class Answer:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Daemon:
    """`libvirt_mc.py` on a free port of the loopback, logging everything.

    `with Daemon("--connect", uri) as daemon: daemon.get("/service/machines").json`
    """

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
        python: str = sys.executable,
    ) -> None:
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [python, PROGRAM, "--listen=127.0.0.1:0", "--log-level=debug", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | (environment or {}),
            cwd=folder,
        )
        self.announcement = self._first_line()
        """The line on standard output that says that it serves."""
        self.port = int(self.announcement.split(" for ")[0].rpartition(":")[2])

    def _first_line(self) -> str:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], _PATIENCE)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line:
            self.kill()
            raise AssertionError(f"the daemon does not serve; it says:\n{self.log()}")
        return line.rstrip("\n")

    @property
    def pid(self) -> int:
        return self.process.pid

    def log_size(self) -> int:
        """How many bytes it has logged so far: where to begin to read what comes next."""
        return os.fstat(self._log.fileno()).st_size

    def log(self, start: int = 0) -> str:
        """All that it has logged so far, or since the log had a size."""
        size = self.log_size() - start
        return os.pread(self._log.fileno(), size, start).decode("utf-8", "replace")

    def virsh_commands(self, start: int = 0) -> list[str]:
        """The virsh commands given so far, without the URI: `start --domain UUID`."""
        # Not by splitlines: a name may hold what Unicode takes for the end of a line.
        lines = [
            line for line in self.log(start).split("\n") if "mc.virsh.commands: virsh -c" in line
        ]
        return [line.split(": virsh -c ", 1)[1].split(" ", 1)[1] for line in lines]

    def children(self) -> list[int]:
        """The ids of the processes that it has started and not yet reaped."""
        pids = []
        # Not by `task/*/children`: those of a thread that is just ending may be in none of them.
        for file in Path("/proc").glob("[0-9]*/stat"):
            # Any of them may end meanwhile.
            with suppress(FileNotFoundError, ProcessLookupError):
                parent = int(file.read_bytes().rpartition(b")")[2].split()[1])
                pids += [int(file.parent.name)] * (parent == self.pid)
        return pids

    def stream(self, command: str) -> int | None:
        """The id of the virsh that follows events: `event`, or `qemu-monitor-event` for QEMU's."""
        for pid in self.children():
            # One that has ended meanwhile is not it, and has no command any more.
            with suppress(FileNotFoundError, ProcessLookupError, IndexError):
                told = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2]
                if command.encode() in told.split():
                    return pid
        return None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = _PATIENCE,
    ) -> Answer:
        """One request on a connection of its own; `path` goes out as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, body: bytes | None = None) -> Answer:
        return self.request("POST", path, body)

    def act(self, machine: str, verb: str, query: str = "", timeout: float = _PATIENCE) -> Answer:
        """Do a verb by the URL that a user would type."""
        path = f"/service/{quote(machine, safe='')}/state_controller/{verb}{query}"
        return self.request("GET", path, timeout=timeout)

    def status(self, machine: str) -> Any:
        """The JSON of a machine's status."""
        answer = self.act(machine, "status")
        assert answer.status == http.HTTPStatus.OK, answer
        return answer.json

    def stop(self) -> float:
        """End it by SIGTERM; the seconds that it took."""
        start = time.monotonic()
        self.process.terminate()
        self.process.wait(_PATIENCE)
        return time.monotonic() - start

    def kill(self) -> None:
        """End it by SIGKILL, if it has not ended."""
        self.process.kill()
        self.process.wait(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.kill() if kind else self.stop()
        assert self.process.stdout
        self.process.stdout.close()
        self._log.close()
