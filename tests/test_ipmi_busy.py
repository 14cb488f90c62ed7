"""IPMI on a busy host: stock ipmitool and ipmi_sim say what is, the first time they are asked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.busy import busy_host
from tests.chassis import UUID, configured
from tests.daemon import Daemon
from tests.hypervisor import DEVICES, hypervisor
from tests.ipmi import Bmc, Simulator, free_ports


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    uri = hypervisor(tmp_path / "machines.xml", [("vm", "running")], DEVICES)
    with Daemon("--connect", uri, "--backup-dir", str(tmp_path / "backups")) as daemon:
        yield daemon


@pytest.fixture
def folder(tmp_path: Path, daemon: Daemon) -> Iterator[Path]:
    with free_ports() as first_port:
        configured(tmp_path / "ipmi", daemon.port, f"--first-port={first_port}")
        yield tmp_path / "ipmi"


def boot_by_network(bmc: Bmc) -> None:
    """As a script would; nothing is tried twice."""
    for words, said in [
        (["bootdev", "pxe"], "Set Boot Device to pxe"),
        (["bootparam", "get", "5"], "Boot Device Selector : Force PXE"),
        (["power", "reset"], "Chassis Power Control: Reset"),
        (["power", "status"], "Chassis Power is on"),
    ]:
        done = bmc.run("chassis", *words)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert said in done.stdout


def test_busy_host(folder: Path, daemon: Daemon) -> None:
    with Simulator(folder) as simulator:
        bmc = simulator.bmc(UUID)
        with busy_host():
            for _ in range(3):
                boot_by_network(bmc)
    assert resets(daemon) == 3


def test_program_that_takes_longer_to_start_than_ipmitool_waits(
    folder: Path, daemon: Daemon
) -> None:
    lan = (folder / "lan.conf").read_text()
    slowly = lan.replace('chassis_control "', 'chassis_control "sleep 1.3; ')
    (folder / "lan.conf").write_text(slowly)
    with Simulator(folder) as simulator:
        boot_by_network(simulator.bmc(UUID))
    assert resets(daemon) == 1


def resets(daemon: Daemon) -> int:
    """A reset that is to boot another device is off and on."""
    return sum(given.startswith("destroy ") for given in daemon.virsh_commands())
