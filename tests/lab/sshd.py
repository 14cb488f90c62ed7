"""An sshd of one's own that lets one user in, who reaches one libvirtd."""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lab.service import Service, User, program

PORT = 22

UNPACKED = Path(__file__).parents[2] / ".venv/openssh/usr/sbin"
"""Where `make test` has it: the Debian package would have the system serve by it."""

# LIBVIRT_AUTOSTART: virt-ssh-helper(8) would start a libvirtd of its own in place of a dead one.
CONFIGURATION = """\
Port {port}
PidFile none
UsePAM no
HostKey {home}/host_key
AuthorizedKeysFile .ssh/authorized_keys
SetEnv LIBVIRT_AUTOSTART=0 XDG_RUNTIME_DIR={runtime}
"""


class Sshd(Service):
    """One sshd at a time; those who have logged in outlive it. It serves whoever it runs as.

    home: of that user, by the namespace's /etc/passwd. runtime: XDG_RUNTIME_DIR of the libvirtd
    that virt-ssh-helper finds. address: where the port is from here. within: a namespace where an
    ordinary user may have the port.
    """

    def __init__(
        self, home: Path, user: User, *, runtime: Path, address: str, within: Sequence[str]
    ) -> None:
        for folder in (home, home / ".ssh"):
            folder.mkdir(mode=0o700)
            user.own(folder)
        self.home = home
        self._user = user
        self._address = address
        self.authorize("")
        self.new_host_key()
        configuration = home / "sshd_config"
        configuration.write_text(CONFIGURATION.format(port=PORT, home=home, runtime=runtime))
        sshd = program("sshd", "openssh-server", str(UNPACKED))
        super().__init__(
            [sshd, "-D", "-e", "-f", str(configuration)],
            log=home / "sshd.log",
            environment={"LC_ALL": "C"},
            user=user,
            within=within,
        )

    @property
    def host_key(self) -> str:
        """The public half of the key by which clients know the host."""
        return (self.home / "host_key.pub").read_text()

    def new_host_key(self) -> None:
        """A new key for the host, which sshd has from its next start on."""
        key = self.home / "host_key"
        key.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True
        )
        self._user.own(key)

    def authorize(self, keys: str) -> None:
        """Let in whoever has one of these keys, lines of authorized_keys; and nobody else."""
        file = self.home / ".ssh/authorized_keys"
        file.write_text(keys)
        self._user.own(file)

    def accepts(self) -> bool:
        """Whether its port accepts connections."""
        try:
            socket.create_connection((self._address, PORT), timeout=1).close()
        except OSError:
            return False
        return True
