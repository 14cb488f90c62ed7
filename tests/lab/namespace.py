"""Linux namespaces without names: they end with their last process, so nothing can be left over."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

SECONDS = 30


class Namespace:
    """Mounts of its own, and a network of its own unless told otherwise; it takes root.

    pid: a process in it, which ends with this object, or with the tests when they are killed.
    """

    def __init__(self, *, network: bool = True) -> None:
        self._kinds = ["--mount", *["--net"] * network]
        self._holder = subprocess.Popen(
            ["unshare", "--propagation=private", *self._kinds, "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.pid = self._holder.pid
        # unshare(1) becomes cat only when the namespaces are there.
        assert self._holder.stdin and self._holder.stdout
        self._holder.stdin.write(b"ready\n")
        assert self._holder.stdout.readline() == b"ready\n", "unshare failed: it takes root"
        if network:
            self.ip("link set lo up")
            # Else programs look there for the devices of our own network.
            self.run("mount", "-t", "sysfs", "sysfs", "/sys")

    @property
    def within(self) -> list[str]:
        """The command that runs another one in it."""
        return ["nsenter", f"--target={self.pid}", *self._kinds, "--"]

    def run(self, *command: str, given: str = "") -> str:
        """What a command in it prints; an AssertionError with its words when it fails."""
        return _run([*self.within, *command], given)

    def ip(self, *lines: str) -> None:
        """Have iproute2 do these commands in its network."""
        _run([*self.within, "ip", "-batch", "-"], "\n".join(lines))

    def show(self, file: Path, at: str) -> None:
        """Have its processes find another file at a path; what is written to it later, too."""
        self.run("mount", "--bind", str(file), at)

    def close(self) -> None:
        """Let go of it. Harmless twice."""
        with self._holder as process:
            assert process.stdin
            process.stdin.close()


def ip(*lines: str) -> None:
    """Have iproute2 do commands in the network that we are in ourselves."""
    _run(["ip", "-batch", "-"], "\n".join(lines))


def _run(command: Sequence[str], given: str) -> str:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{command}\n{given}\n{done.stderr}"
    return done.stdout
