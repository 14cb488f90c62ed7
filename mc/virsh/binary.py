"""Whether the virsh on this machine can be used at all."""

import re
import subprocess

from mc.errors import VirshUnusable, words

OLDEST = (9, 0)
_MORTAL = ["setpriv", "--pdeathsig", "KILL"]
_SECONDS = 10


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


def mortal(command: list[str]) -> list[str]:
    """The command so that it dies with the thread that starts it, a killed daemon's included.

    A virsh that waits for events would not notice; one that reads commands does. It takes
    setpriv of util-linux (setpriv(1)); where there is none the command stays as it is.
    """
    try:
        subprocess.run([*_MORTAL, "true"], capture_output=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return command
    return [*_MORTAL, *command]
