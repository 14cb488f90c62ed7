"""What docs/hosts.md has an administrator do, done as it stands there, on a network of the tests'.

Only where things are is put in place of what the page says: folders, users who do not exist here,
and `/session`, since libvirtd is an ordinary user's.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab import Host, Network

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/hosts.md").read_text("utf-8")
SECONDS = 60

# Commands that are not run, each with the reason.
NOT_RUN = {
    "systemctl stop libvirtd.service": "the laboratory starts libvirtd",
    "systemctl enable --now libvirtd-tls.socket": "the laboratory starts libvirtd",
    "useradd --create-home --shell /bin/sh --groups libvirt mc": "the laboratory has that user",
    "chown libvirt-mc: /var/lib/libvirt_mc/.ssh/known_hosts": "there is no such user here",
}


def section(heading: str) -> str:
    """What stands below a heading of the second order."""
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def scripts(heading: str) -> list[str]:
    """The scripts in a section."""
    return re.findall(r"^```sh\n(.*?)^```$", section(heading), re.MULTILINE | re.DOTALL)


def commands(script: str) -> list[str]:
    """Its commands, each on one line."""
    joined = re.sub(r" *\\\n *", " ", script)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


@dataclass(frozen=True)
class Administrator:
    """Does by a network what the page says; folder: for files of its own."""

    network: Network
    folder: Path

    def do(self, script: str, within: Path, **places: str) -> list[str]:
        """Run a script in a folder, and give what each command printed.

        places: what to put in place of words of the page, `kvm1_example="two.example"`.
        """
        words = {
            "-o libvirt-mc -g libvirt-mc ": "",
            "-o mc -g mc ": "",
            "runuser -u libvirt-mc -- ": "",
            "config/ssh_config": str(ROOT / "config/ssh_config"),
            "/var/lib/libvirt_mc": str(self.network.home),
            "/system": "/session",
            **{word.replace("_", "."): place for word, place in places.items()},
        }
        lines = [line for line in commands(script) if line not in NOT_RUN]
        # One shell for all, since they set variables and umask.
        text = "\necho NEXT\n".join(lines)
        for word, place in words.items():
            text = text.replace(word, place)
        text = re.sub(r"(?<![\w.~-])/etc/(pki|libvirt|libvirt_mc)\b", rf"{within}/etc/\1", text)
        done = subprocess.run(
            [self.network.shell, "-euc", text],
            cwd=within,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        return done.stdout.split("NEXT\n")

    def authority(self, name: str = "authority") -> Path:
        """The folder of a new authority, with the controller's certificate."""
        folder = self.folder / name
        folder.mkdir()
        self.do(scripts("TLS")[0], folder)
        return folder

    def tls_host(self, authority: Path, name: str, certified: str = "") -> Host:
        """A host with a certificate for its name, or for another one."""
        certified = certified or f"{name}.example"
        self.do(scripts("TLS")[1], authority, kvm1_example=certified)
        files = self.folder / f"host-{name}"
        (files / "etc/libvirt").mkdir(parents=True)
        for file in (authority / "cacert.pem", *authority.glob(f"{certified}.*")):
            shutil.copy(file, files)
        self.do(scripts("TLS")[2], files, kvm1_example=certified)
        pki = files / "pki"
        pki.mkdir()
        for file in (files / "etc/pki").rglob("*.pem"):
            shutil.copy(file, pki)
        return self.network.host(
            name, pki=pki, settings=(files / "etc/libvirt/libvirtd.conf").read_text()
        )

    def tls_controller(self, authority: Path, host: Host) -> tuple[Path, str]:
        """`pkipath` as installed, and what virsh then prints for a host."""
        files = self.folder / "controller"
        files.mkdir()
        for name in ("cacert.pem", "clientcert.pem", "clientkey.pem"):
            shutil.copy(authority / name, files)
        printed = self.do(scripts("TLS")[3], files, kvm1_example=host.name)
        return files / "etc/libvirt_mc/pki", printed[-1].strip()

    def ssh_controller(self) -> None:
        """Give the client its ssh_config and its key."""
        self.do(scripts("ssh")[0], self.folder)

    def ssh_host(self, host: Host) -> str:
        """Let the client in to a host; what virsh then prints."""
        home = self.network.home / ".ssh"
        self.do(scripts("ssh")[1].replace("~mc", str(host.sshd.home)), home)
        shown, printed = self.do(scripts("ssh")[2], home, kvm2_example=host.name)[-2:]
        assert f" {host.name} (ED25519)" in shown
        return printed.strip()
