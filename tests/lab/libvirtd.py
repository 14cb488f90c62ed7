"""A libvirtd of one's own in a folder: it shares nothing with the libvirt of the user or system."""

import os
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.lab.service import Service, User, program

# By default libvirtd hands the machines' logs to virtlogd, which would be one more process.
QEMU_CONF = 'stdio_handler = "file"\n'

# A client that a test freezes is to be kept, not disconnected by libvirtd's own keepalive.
LIBVIRTD_CONF = "keepalive_interval = -1\nlog_level = 3\n"


class Libvirtd(Service):
    """One libvirtd process at a time, always on the same folder; `start` finds machines again.

    settings: lines of libvirtd.conf besides its own; one that begins with `listen_` is for a
    libvirtd that listens on its network. within: see Service.
    """

    def __init__(
        self, folder: Path, user: User, settings: str = "", within: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.socket = folder / "run/libvirt/libvirt-sock"
        self.run_folder = folder / "run/libvirt/qemu/run"
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_DATA_HOME": str(folder / "data"),
        }
        configuration = self._write_configuration(user, settings)
        libvirtd = program("libvirtd", "libvirt-daemon and libvirt-daemon-driver-qemu")
        super().__init__(
            [libvirtd, "--config", str(configuration), *["--listen"] * ("listen_" in settings)],
            log=folder / "libvirtd.log",
            environment=self.environment,
            user=user,
            within=within,
        )

    @property
    def uri(self) -> str:
        """The URI that reaches this libvirtd from any process of the same user, or of root."""
        return f"qemu+unix:///session?socket={self.socket}"

    def accepts(self) -> bool:
        """Whether its socket accepts connections."""
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def _write_configuration(self, user: User, settings: str) -> Path:
        """Make the folders, which libvirtd wants to exist, and its two files; that of its own."""
        for name in ("run", "cache", "data", "config", "config/libvirt"):
            (self.folder / name).mkdir(mode=0o700)
            user.own(self.folder / name)
        (self.folder / "config/libvirt/qemu.conf").write_text(QEMU_CONF)
        # Machines migrate between two that are on hosts of their own only.
        settings = f'host_uuid = "{uuid.uuid4()}"\n{settings}'
        own = self.folder / "config/libvirt/libvirtd.conf"
        own.write_text(LIBVIRTD_CONF + settings)
        return own
