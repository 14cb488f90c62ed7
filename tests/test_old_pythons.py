"""What runs inside other programs runs on the Pythons that those have.

Nothing is skipped where no old Python is found: the check by `vermin` reads all of it in any case.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.hypervisor import DEVICES, hypervisor
from tests.ipmi import PATIENCE, configure
from tests.lab import until

ROOT = Path(__file__).parent.parent
DRIVER = ROOT / "config/mr_provisioner/libvirt_bmc.py"
BY_OLD_PYTHON = ROOT / "tests/by_old_python.py"

IPMI_NEEDS = (3, 9)
# The oldest Python for each, as it says itself. Mr-Provisioner's own requirements are from 2018.
NEEDS = {
    DRIVER: (3, 5),
    BY_OLD_PYTHON: (3, 5),
    **dict.fromkeys(ROOT.glob("config/ipmi_sim/*.py"), IPMI_NEEDS),
}


def old_pythons() -> dict[tuple[int, int], str]:
    """The Pythons before 3.11 on this host, by version.

    On the path, in the environment variable OLD_PYTHONS, and where pyenv and uv put them.
    """
    home = Path.home()
    kept = [
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv"), "versions"),
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python")),
    ]
    names = [f"python3.{minor}" for minor in range(5, 11)]
    paths = [
        *filter(None, os.environ.get("OLD_PYTHONS", "").split(os.pathsep)),
        *filter(None, map(shutil.which, names)),
        *(str(path) for folder in kept for name in names for path in folder.glob(f"*/bin/{name}")),
    ]
    found: dict[tuple[int, int], str] = {}
    for path in paths:
        # Those of pyenv that are on the path may be of no use there.
        told = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        if len(told) == 2:
            found.setdefault((int(told[0]), int(told[1])), path)
    return dict(sorted(found.items()))


def word(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


FOUND = old_pythons()


def since(oldest: tuple[int, int]) -> pytest.MarkDecorator:
    """The test is run by each Python that was found, from the oldest that has to do."""
    cases = [
        pytest.param(path, id=word(version)) for version, path in FOUND.items() if version >= oldest
    ]
    return pytest.mark.parametrize("python", cases)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    uri = hypervisor(tmp_path / "machines.xml", [("vm", "running")], DEVICES)
    with Daemon("--connect", uri, "--backup-dir", str(tmp_path / "backups")) as daemon:
        yield daemon


@pytest.mark.parametrize("path", NEEDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_needs_no_newer_python_than_it_says(path: Path) -> None:
    """All that needs a newer one, but for `X | Y` in an annotation, which is Ruff's FA102."""
    target = f"--target={word(NEEDS[path])}-"
    options = ["--eval-annotations", "--no-tips", "-vv"]
    done = subprocess.run(
        [sys.executable, "-c", "import vermin; vermin.main()", target, *options, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_of_config_is_looked_at() -> None:
    assert set(ROOT.glob("config/*/*.py")) <= set(NEEDS)


@since(NEEDS[DRIVER])
def test_driver_for_mr_provisioner(python: str, daemon: Daemon) -> None:
    done = subprocess.run(
        [python, "-I", "-S", str(BY_OLD_PYTHON), str(DRIVER), str(daemon.port), "vm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *steps, device, machine, port, semicolon = json.loads(done.stdout)
    assert steps == ["libvirt_bmc", "on", None, "off", None, None, "on"]
    assert device == "there is no boot device 'floppy': bios, cdrom, disk, none, pxe"
    assert machine == "no such: libvirt has no machine 'no such'"
    assert port.startswith("BMC info 'https://:99999': ")
    assert semicolon is True


@since(IPMI_NEEDS)
def test_program_for_ipmi_sim(python: str, daemon: Daemon, tmp_path: Path) -> None:
    """Called as ipmi_sim does, by the Python that has run configure.py."""
    folder = tmp_path / "ipmi"
    done = configure(folder, f"--controller=http://127.0.0.1:{daemon.port}", python=python)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r'^ +chassis_control "(.*)"$', (folder / "lan.conf").read_text(), re.M)
    assert found
    program = found[1]

    def tell(request: str) -> str:
        called = ["sh", "-c", f"{program} {request}"]
        done = subprocess.run(called, capture_output=True, text=True, check=False)
        return f"{done.stdout}{done.stderr}"

    for request, said in [
        ("get power", "power:1\n"),
        ('set power "0"', ""),
        ("get power", "power:0\n"),
        ('set boot "pxe"', ""),
        ("get boot", "boot:pxe\n"),
    ]:
        until(lambda: tell(request), PATIENCE, request, said.__eq__)  # noqa: B023
