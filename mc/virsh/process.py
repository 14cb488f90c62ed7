"""A virsh process: started without the surroundings that would change its ways, ended, reaped."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from threading import Lock

from mc.errors import Unreachable, words

# Seconds that a virsh may take to end by itself. It takes some milliseconds where libvirt answers.
_TO_END = 1.0


class Process:
    """A virsh for a URI, in a session of its own to which the ssh that it may start belongs too.

    Raises `Unreachable` if the binary cannot be started.
    """

    def __init__(self, command: Sequence[str], uri: str, *, pass_fds: Sequence[int] = ()) -> None:
        self._ending = Lock()
        self._ends_by: float | None = None
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=_environment(uri),
                start_new_session=True,
                pass_fds=pass_fds,
            )
        except OSError as error:
            raise Unreachable(f"{command[0]} cannot be started: {words(error)}") from error
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin and stdout and stderr  # noqa: S101 (for mypy: all three are pipes)
        self._pipes = (stdin, stdout, stderr)
        self.stdin, self.stdout, self.stderr = (pipe.fileno() for pipe in self._pipes)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it from any thread; `close` reaps it."""
        with self._ending:
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Let it end by itself, as at the end of its input: it takes leave of libvirt, and of ssh.

        `close` reaps it, a second after this at the latest. Returns at once.
        """
        with self._ending:
            if self._ends_by is None:
                self._ends_by = time.monotonic() + _TO_END
                self._pipes[0].close()

    def close(self) -> None:
        """End it and reap it. A command that libvirt has begun goes on without it."""
        if self._ends_by is not None and self._process.returncode is None:
            ended = select.poll()
            ended.register(
                self.stdout, 0
            )  # which is at its end when the process is, and not before
            ended.poll(max(0, self._ends_by - time.monotonic()) * 1000)
        # Also if it has ended: what it has started may go on.
        self.kill()
        with self._ending:
            self._process.wait()
        for pipe in self._pipes:
            pipe.close()


def _environment(uri: str) -> dict[str, str]:
    """The daemon's own, less what would change virsh's words, keys, history or output."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("LIBVIRT_DEBUG", "LIBVIRT_LOG_", "VIRSH_"))
    }
    # Both together: the history size alone would truncate the administrator's file. But a
    # libvirtd that virsh starts for the user's own session needs the cache folder.
    starts_libvirtd = uri.endswith(":///session")
    no_history = {} if starts_libvirtd else {"VIRSH_HISTSIZE": "0", "XDG_CACHE_HOME": "/dev/null"}
    # readline breaks the lines that it echoes at the width of the terminal that it believes in.
    terminal = {"LC_ALL": "C", "TERM": "dumb", "COLUMNS": "80", "INPUTRC": "/dev/null"}
    return inherited | no_history | terminal
