"""The program that ipmi_sim starts, called as ipmi_sim does."""

import subprocess
import sys
from pathlib import Path

from tests.daemon import Daemon
from tests.hypervisor import uuid_of
from tests.ipmi import CONFIGURE, PASSWORD, PATIENCE, configure, idle
from tests.lab import until

PROGRAM = CONFIGURE.with_name("chassis_control.py")
UUID = uuid_of(0)


def call(folder: Path, *request: str, uuid: str = UUID) -> subprocess.CompletedProcess[str]:
    """Run the program; standard output is read until all who have it are gone, as by ipmi_sim."""
    command = [sys.executable, "-E", "-s", "-S", str(PROGRAM), f"{folder}/settings.json", uuid]
    return subprocess.run(
        [*command, *request], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def tell(folder: Path, *request: str, uuid: str = UUID) -> str:
    """What the program answers; a loaded machine may need more than one try to read in time."""
    done = until(
        lambda: call(folder, *request, uuid=uuid),
        PATIENCE,
        f"{request}",
        lambda done: done.returncode == 0 or request[0] != "get",
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def do(folder: Path, *request: str, uuid: str = UUID) -> None:
    """Have something done, and wait until it is."""
    assert tell(folder, *request, uuid=uuid) == ""
    until(lambda: idle(folder), PATIENCE, "end of the job")


def refuse(folder: Path, *request: str, uuid: str = UUID) -> str:
    """What the program says when it fails, for which it may have no time at the first try."""
    done = until(
        lambda: call(folder, *request, uuid=uuid),
        PATIENCE,
        f"refusal of {request}",
        lambda done: done.returncode and "in time" not in done.stderr,
    )
    assert (done.returncode, done.stdout) == (1, ""), done
    assert len(done.stderr.splitlines()) == 1, done
    return done.stderr


def configured(
    folder: Path, port: int, *arguments: str, scheme: str = "http", lines: str = PASSWORD
) -> None:
    done = configure(
        folder, f"--controller={scheme}://127.0.0.1:{port}", *arguments, passwords=lines
    )
    assert done.returncode == 0, done


def count(daemon: Daemon, command: str, uuid: str = UUID) -> int:
    """How often virsh has been told to do something to a machine; `destroy` to any, by its run."""
    beginning = f"{command} --domain {'' if command == 'destroy' else uuid}"
    return sum(given.startswith(beginning) for given in daemon.virsh_commands())
