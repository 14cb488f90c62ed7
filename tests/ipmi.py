"""IPMI as its users meet it: stock ipmi_sim with the files of `configure.py`, and ipmitool."""

import fcntl
import json
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab import until

CONFIGURE = Path(__file__).parent.parent / "config/ipmi_sim/configure.py"
PASSWORD = "a#b$c'd,19-letters!"  # noqa: S105
PATIENCE = 30.0
_BLOCKS = range(20000, 32000, 300)


@contextmanager
def free_ports() -> Iterator[int]:
    """The first of 250 UDP ports for the length of the block.

    ipmi_sim does not say when a port is taken. So tests that run at the same time keep out of each
    other's way by a TCP port of the same number; system-wide, ports are given from 32768 on.
    """
    for port in random.sample(_BLOCKS, len(_BLOCKS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            yield port
            return
    raise AssertionError("no ports are free")


def configure(
    folder: Path, *arguments: str, passwords: str = PASSWORD, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run configure.py with passwords, one a line, on standard input."""
    return subprocess.run(
        [python, CONFIGURE, str(folder), *arguments],
        input=passwords + "\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def ports_of(folder: Path) -> dict[str, int]:
    """The UDP port of each machine, by UUID."""
    ports: dict[str, int] = json.loads((folder / "settings.json").read_text())["ports"]
    return ports


def succeeded(done: subprocess.CompletedProcess[str]) -> bool:
    """Where a boot device cannot be set, ipmitool says so, and ends as if all was well."""
    return done.returncode == 0 and "failed" not in done.stderr


class Bmc:
    """One machine's port of an ipmi_sim, whose files are in a folder."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._folder = folder

    def command(self, *words: str, password: str = PASSWORD) -> list[str]:
        """How a user calls ipmitool."""
        where = ["-H", "127.0.0.1", "-p", str(self.port)]
        return [
            "ipmitool",
            "-I",
            "lanplus",
            "-C",
            "3",
            *where,
            "-U",
            "admin",
            "-P",
            password,
            *words,
        ]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=60, check=False
        )

    def __call__(self, *words: str) -> str:
        """What an ipmitool command that succeeds says: `bmc("chassis", "power", "on")`.

        What reads is tried again: on a loaded machine the program may run out of time. An action
        is over when this returns.
        """
        reads = words[1].startswith("boot") or words[2:] == ("status",)
        if reads:
            done = until(lambda: self.run(*words), PATIENCE, f"{words}", succeeded)
        else:
            done = self.run(*words)
            assert succeeded(done), (words, done)
        until(lambda: idle(self._folder), PATIENCE, "end of what was asked for")
        return done.stdout.strip()

    def refuses(self, *words: str) -> str:
        """What ipmitool says where a command fails, which it may say too late the first time."""
        done = until(
            lambda: self.run(*words),
            PATIENCE,
            f"error of {words}",
            lambda done: not succeeded(done),
        )
        return done.stderr

    def power(self) -> str:
        return self("chassis", "power", "status").removeprefix("Chassis Power is ")

    def boot_device(self) -> str:
        """The boot device selector, in ipmitool's words."""
        found = re.search(r"Boot Device Selector : (.*)", self("chassis", "bootparam", "get", "5"))
        assert found
        return found[1]

    def answers(self) -> str:
        """The GUID, if it is there: no part of the controller is asked for it."""
        done = self.run("mc", "guid", "ipmi")
        found = re.search(r"System GUID +: (\S+)", done.stdout)
        return found[1] if found else ""


class Simulator:
    """An ipmi_sim on the files in a folder; what it logs is in `log`.

    `with Simulator(folder) as simulator: simulator.bmc(uuid)("chassis", "power", "on")`
    """

    def __init__(self, folder: Path, part: str = "") -> None:
        self.folder = folder
        self._log = folder / f"log{part}"
        unit = (folder / f"libvirt-mc-ipmi{part}.service").read_text()
        found = re.search(r"^ExecStart=(.*)$", unit, re.M)
        assert found
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                found[1].split(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def bmc(self, uuid: str) -> Bmc:
        """The BMC of a machine, once it is that machine's."""
        bmc = Bmc(ports_of(self.folder)[uuid], self.folder)
        until(bmc.answers, PATIENCE, f"IPMI of {uuid}; {self.log()}", lambda guid: guid == uuid)
        return bmc

    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        until(lambda: idle(self.folder), PATIENCE, "end of its jobs")


def idle(folder: Path) -> bool:
    """Whether no job is under way any more."""
    return not any(is_locked(path) for path in (folder / "jobs").iterdir())


def is_locked(path: Path) -> bool:
    """Whether the job that this file is about is still under way."""
    with suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def fence(bmc: Bmc, action: str) -> str:
    """What Debian's fence_ipmilan says, as a cluster would call it; as clusters do, try again."""
    where = ["--ip=127.0.0.1", f"--ipport={bmc.port}", "--username=admin", f"--password={PASSWORD}"]

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["fence_ipmilan", "--lanplus", "--cipher=3", *where, f"--action={action}"],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    # 2 says that it is off.
    done = until(call, PATIENCE, action, lambda done: done.returncode in (0, 2))
    return done.stdout.strip()
