"""A libvirtd of one's own in a folder: it shares nothing with the libvirt of the user or system."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab import keeper, processes
from tests.lab.waiting import until

UNPRIVILEGED_USER = "nobody"
"""Who runs libvirtd when root runs the tests: a libvirtd of root would be the system's."""

# By default libvirtd hands the machines' logs to virtlogd, which would be one more process.
QEMU_CONF = 'stdio_handler = "file"\n'

# A client that a test freezes is to be kept, not disconnected by libvirtd's own keepalive.
LIBVIRTD_CONF = "keepalive_interval = -1\nlog_level = 3\n"


@dataclass(frozen=True)
class User:
    """The user and group that libvirtd and its QEMUs run as."""

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


class Libvirtd:
    """One libvirtd process at a time, always on the same folder; `start` finds machines again."""

    def __init__(self, folder: Path, user: User) -> None:
        self.folder = folder
        self.socket = folder / "run/libvirt/libvirt-sock"
        self.run_folder = folder / "run/libvirt/qemu/run"
        self.log = folder / "libvirtd.log"
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_DATA_HOME": str(folder / "data"),
        }
        self._pid = 0
        self._write_configuration(user)
        self._keeper = self._start_keeper(user)

    @property
    def uri(self) -> str:
        """The URI that reaches this libvirtd from any process of the same user, or of root."""
        return f"qemu+unix:///session?socket={self.socket}"

    @property
    def pid(self) -> int:
        """Id of the process; an AssertionError when none runs."""
        assert processes.state(self._pid), "libvirtd does not run"
        return self._pid

    def start(self, seconds: float = 30) -> None:
        """Start libvirtd and wait until it accepts connections.

        Raises AssertionError with libvirtd's log when it ends or is not ready within the seconds.
        """
        assert not processes.state(self._pid), "libvirtd runs already"
        assert self._keeper.stdin and self._keeper.stdout
        print(file=self._keeper.stdin, flush=True)
        self._pid = int(self._keeper.stdout.readline() or 0)
        try:
            until(self._accepts, seconds, "libvirtd that accepts connections")
        except AssertionError as error:
            error.add_note(f"libvirtd wrote:\n{self.log.read_text(errors='replace')}")
            raise

    def kill(self) -> None:
        """End libvirtd by SIGKILL, frozen or not; its machines run on."""
        processes.kill(self.pid)

    def freeze(self) -> None:
        """Stop libvirtd (SIGSTOP): connecting to it still succeeds, but nothing is answered."""
        processes.freeze(self.pid)

    def thaw(self) -> None:
        """Let a frozen libvirtd run on (SIGCONT)."""
        processes.thaw(self.pid)

    def close(self) -> None:
        """End libvirtd and its QEMUs, frozen or not; return when they are gone. Harmless twice."""
        with self._keeper as process:
            assert process.stdin
            process.stdin.close()

    def _accepts(self) -> bool:
        """Whether the socket accepts; an AssertionError when libvirtd has ended instead."""
        assert processes.state(self._pid), "libvirtd ended while starting"
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def _start_keeper(self, user: User) -> subprocess.Popen[str]:
        """The parent of libvirtd; its stderr, which libvirtd inherits, is libvirtd's log."""
        identity = (user.uid, user.gid) if is_root() else (-1, -1)
        configuration = self.folder / "config/libvirt/libvirtd.conf"
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", keeper.__file__, *map(str, identity)),
                    *(_program(), "--config", str(configuration)),
                ],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C in a terminal is for the tests, which then end the laboratory in order.
                start_new_session=True,
            )

    def _write_configuration(self, user: User) -> None:
        """Make the folders, which libvirtd wants to exist, and its two files."""
        for name in ("run", "cache", "data", "config", "config/libvirt"):
            (self.folder / name).mkdir(mode=0o700)
            user.own(self.folder / name)
        (self.folder / "config/libvirt/qemu.conf").write_text(QEMU_CONF)
        (self.folder / "config/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)


def is_root() -> bool:
    """Whether root runs this."""
    return os.geteuid() == 0


def _program() -> str:
    """Path of libvirtd, which an ordinary user's PATH may lack."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    program = shutil.which("libvirtd", path=search)
    assert program, "libvirtd is missing: install libvirt-daemon and libvirt-daemon-driver-qemu"
    return program
