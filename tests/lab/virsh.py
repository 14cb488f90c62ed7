"""A real virsh per command: slow (13 ms), and for that reason independent of what is tested."""

import subprocess
from collections.abc import Mapping


class VirshError(Exception):
    """virsh ended with a failure; its text is what virsh wrote on stderr."""

    def __init__(self, arguments: tuple[str, ...], stderr: str) -> None:
        super().__init__(f"virsh {' '.join(arguments)}: {stderr.strip()}")
        self.arguments = arguments
        self.stderr = stderr


class Virsh:
    """Calls virsh on one URI: `virsh("domstate", name)` returns what it wrote on stdout."""

    def __init__(self, uri: str, environment: Mapping[str, str]) -> None:
        self.uri = uri
        self._environment = environment

    def __call__(self, *arguments: str, seconds: float = 60) -> str:
        """The output of `virsh --quiet` in English (LC_ALL=C).

        Raises VirshError when virsh fails, subprocess.TimeoutExpired when it takes longer than so
        many seconds; virsh is killed then, but libvirtd goes on with what it has begun.
        """
        done = subprocess.run(
            ["virsh", "--quiet", "--connect", self.uri, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise VirshError(arguments, done.stderr)
        return done.stdout
