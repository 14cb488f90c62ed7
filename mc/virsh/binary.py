"""Whether the virsh on this machine can be used at all."""

import re
import subprocess

from mc.errors import VirshUnusable, words

OLDEST = (9, 0)
_MORTAL = ["setpriv", "--pdeathsig", "KILL"]
_SECONDS = 10
# URIs whose driver runs in a libvirt daemon, here or on another host. Others run in virsh itself,
# such as `test:`, `esx:` and `qemu:///embed`; they have no keepalive, and virsh would not connect.
_BY_DAEMON = re.compile(
    r"[a-z]+\+[a-z0-9]+:|(qemu|xen|lxc|ch|bhyve|vz):(?!(//[^/?#]*)?/embed([?#]|$))"
)
# Seconds between keepalives, and how many may be missed: a lost host is noticed after 10 to 15 s.
_KEEPALIVE = ["-k", "5", "-K", "2"]


def connecting(binary: str, uri: str) -> list[str]:
    """The command that connects to a libvirt and reads commands, or does one that is added.

    >>> connecting("virsh", "qemu+tls://kvm1/system")
    ['virsh', '-q', '-k', '5', '-K', '2', '-c', 'qemu+tls://kvm1/system']
    >>> connecting("virsh", "test:///default")
    ['virsh', '-q', '-c', 'test:///default']
    """
    keepalive = _KEEPALIVE if _BY_DAEMON.match(uri) else []
    return [binary, "-q", *keepalive, "-c", uri]


def check_binary(binary: str) -> str:
    """The version of the virsh binary, such as `9.0.0`.

    Raises `VirshUnusable` if it is missing or does not run, if it is older than `OLDEST`, the
    oldest that this program was tried with, or if it was built without readline: such a virsh
    cuts its input lines at 1023 bytes.
    """
    try:
        answer = subprocess.run(
            [binary, "--version=long"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
            encoding="utf-8",
            errors="replace",
        ).stdout
    except FileNotFoundError as error:
        raise VirshUnusable(
            f"{binary} was not found: install virsh (the package libvirt-clients on Debian and "
            "Ubuntu, libvirt-client on Fedora and SUSE), or say where it is with libvirt.virsh"
        ) from error
    except OSError as error:
        raise VirshUnusable(f"{binary} does not run: {words(error)}") from error
    except subprocess.TimeoutExpired as error:
        raise VirshUnusable(f"{binary} does not run: no answer within {_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise VirshUnusable(f"{binary} does not run: {_end(error)}") from error
    found = re.search(r"libvirt (\d+)\.(\d+)\.(\d+)", answer)
    if not found:
        raise VirshUnusable(f"{binary} is not libvirt's virsh: it says {answer[:80]!r}")
    version = ".".join(found.groups())
    if (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise VirshUnusable(f"{binary} is version {version}: {oldest} or newer is needed")
    if "Readline" not in answer:
        raise VirshUnusable(f"{binary} was built without readline, which is needed")
    return version


def _end(error: subprocess.CalledProcessError) -> str:
    """How a program ended, and the last that it said."""
    how = f"exit status {error.returncode}"
    if error.returncode < 0:
        how = f"ended by signal {-error.returncode}"
    said = error.stderr.strip().rpartition("\n")[2]
    return f"{how}: {said[:200]}" if said else how


def mortal() -> list[str]:
    """What makes a command die with the thread that starts it, a killed daemon's included.

    A virsh that waits for events would not notice; one that reads commands does. It takes
    setpriv of util-linux (setpriv(1)); where there is none it is nothing.
    """
    try:
        subprocess.run([*_MORTAL, "true"], capture_output=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return _MORTAL
