"""IPMI on real machines: stock ipmitool and ipmi_sim; the guest says what booted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booting import Define, commands, machines
from tests.daemon import Daemon
from tests.detour import Detour
from tests.ipmi import Bmc, Simulator, configure, fence, free_ports
from tests.lab import Cdrom, Laboratory, Machine, Nic


@pytest.fixture(scope="module")
def daemon(lab: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    backups = tmp_path_factory.mktemp("ipmi") / "backups"
    with Daemon("--connect", lab.uri, "--backup-dir", str(backups)) as daemon:
        yield daemon


@pytest.fixture
def define(lab: Laboratory) -> Iterator[Define]:
    with machines(lab) as define:
        yield define


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ipmi"


@pytest.fixture
def first_port() -> Iterator[int]:
    with free_ports() as port:
        yield port


def serve(folder: Path, port: int, first_port: int, *machines: Machine) -> Simulator:
    """An ipmi_sim for these machines of the controller on that port."""
    done = configure(
        folder,
        f"--controller=http://127.0.0.1:{port}",
        f"--first-port={first_port}",
        "--machines",
        *(machine.name for machine in machines),
    )
    assert done.returncode == 0, done
    return Simulator(folder)


@pytest.fixture
def machine(define: Define) -> Machine:
    """A machine that is off, and would boot from its disk."""
    return define(add=[Nic(), Cdrom()])


@pytest.fixture
def bmc(folder: Path, daemon: Daemon, first_port: int, machine: Machine) -> Iterator[Bmc]:
    with serve(folder, daemon.port, first_port, machine) as simulator:
        yield simulator.bmc(machine.uuid)


def test_power(bmc: Bmc, machine: Machine) -> None:
    assert bmc.power() == "off"
    bmc("chassis", "power", "on")
    machine.wait_for_boots("disk")
    assert bmc.power() == "on"
    bmc("chassis", "power", "on")
    bmc("chassis", "power", "reset")
    machine.wait_for_boots("disk", "disk")
    bmc("chassis", "power", "soft")
    machine.wait_for_state("shut off (shutdown)")
    assert bmc.power() == "off"
    bmc("chassis", "power", "on")
    machine.wait_for_boots("disk", "disk", "disk")
    bmc("chassis", "power", "off")
    machine.wait_for_state("shut off (destroyed)")
    bmc("chassis", "power", "off")
    assert bmc.power() == "off"
    assert machine.boots == 3


@pytest.mark.parametrize("runs", [True, False])
def test_power_cycle(bmc: Bmc, machine: Machine, daemon: Daemon, runs: bool) -> None:
    if runs:
        machine.boot()
    with commands(daemon) as given:
        bmc("chassis", "power", "cycle")
        machine.wait_for_boots(*["disk"] * (1 + runs))
    assert given == ["destroy"] * runs + ["start"]


def test_reset_of_a_machine_that_is_off_is_an_error(bmc: Bmc, machine: Machine) -> None:
    bmc.refuses("chassis", "power", "reset")
    assert machine.state() == "shut off"


def test_identify_says_that_it_cannot(bmc: Bmc, folder: Path) -> None:
    assert "Identify failed" in bmc.refuses("chassis", "identify")
    assert "no light" in (folder / "log").read_text()


def test_boot_device_is_for_the_next_boot_only(bmc: Bmc, machine: Machine) -> None:
    machine.boot()
    first = machine.xml()
    bmc("chassis", "bootdev", "pxe")
    assert machine.state() == "running"
    bmc("chassis", "power", "reset")
    machine.wait_for_boots("disk", "network")
    bmc("chassis", "power", "reset")
    machine.wait_for_boots("disk", "network", "disk")
    assert machine.xml() == first


@pytest.mark.parametrize(
    ("device", "selector", "boots"),
    [
        ("pxe", "Force PXE", "network"),
        ("disk", "Force Boot from default Hard-Drive", "disk"),
        ("cdrom", "Force Boot from CD/DVD", "cdrom"),
        ("bios", "Force Boot into BIOS Setup", "cdrom"),
        ("none", "No override", "cdrom"),
    ],
)
def test_boot_devices(
    define: Define,
    folder: Path,
    daemon: Daemon,
    first_port: int,
    device: str,
    selector: str,
    boots: str,
) -> None:
    machine = define(add=[Nic(), Cdrom()], boot="device", boot_order=["cdrom", "disk", "network"])
    with serve(folder, daemon.port, first_port, machine) as simulator:
        bmc = simulator.bmc(machine.uuid)
        assert bmc.boot_device() == "No override"
        bmc("chassis", "bootdev", "pxe" if device == "none" else "disk")
        bmc("chassis", "bootdev", device)
        assert bmc.boot_device() == selector
        assert machine.state() == "shut off"
        bmc("chassis", "power", "on")
        machine.wait_for_boots(boots)
        assert bmc.boot_device() == "No override"
        bmc("chassis", "power", "cycle")
        machine.wait_for_boots(boots, "cdrom")


def test_device_that_the_machine_has_not_is_an_error(
    define: Define, folder: Path, daemon: Daemon, first_port: int
) -> None:
    machine = define(add=[])
    with serve(folder, daemon.port, first_port, machine) as simulator:
        bmc = simulator.bmc(machine.uuid)
        bmc.refuses("chassis", "bootdev", "pxe")
        assert bmc.boot_device() == "No override"
        assert "no interface to boot from" in simulator.log()


def test_each_port_is_a_machine_of_its_own(
    define: Define, folder: Path, daemon: Daemon, first_port: int
) -> None:
    one, other = define(), define()
    with serve(folder, daemon.port, first_port, one, other) as simulator:
        simulator.bmc(one.uuid)("chassis", "power", "on")
        simulator.bmc(other.uuid)("chassis", "bootdev", "pxe")
        one.wait_for_boots("disk")
        assert simulator.bmc(other.uuid).power() == "off"
        simulator.bmc(other.uuid)("chassis", "power", "on")
        other.wait_for_boots("network")
        simulator.bmc(one.uuid)("chassis", "power", "off")
        assert (one.state(), other.state()) == ("shut off", "running")


def test_power_cycle_by_way_of_a_slow_controller_is_done_once(
    define: Define, folder: Path, daemon: Daemon, first_port: int
) -> None:
    machine = define()
    machine.boot()
    with (
        Detour(daemon.port) as detour,
        serve(folder, detour.port, first_port, machine) as simulator,
    ):
        bmc = simulator.bmc(machine.uuid)
        detour.seconds = 5
        with commands(daemon) as given:
            bmc("chassis", "power", "cycle")
            machine.wait_for_boots("disk", "disk", seconds=120)
    assert given == ["destroy", "start"]


def test_controller_that_is_away_is_an_error(
    lab: Laboratory, machine: Machine, folder: Path, first_port: int
) -> None:
    with Daemon("--connect", lab.uri) as daemon:
        simulator = serve(folder, daemon.port, first_port, machine)
        with simulator:
            bmc = simulator.bmc(machine.uuid)
            assert bmc.power() == "off"
            daemon.stop()
            for words in (["status"], ["on"], ["off"], ["reset"], ["soft"], ["cycle"]):
                bmc.refuses("chassis", "power", *words)
            bmc.refuses("chassis", "bootdev", "pxe")
            bmc.refuses("chassis", "bootparam", "get", "5")
    assert machine.state() == "shut off"


def test_fence_agent(bmc: Bmc, machine: Machine) -> None:
    assert fence(bmc, "status") == "Status: OFF"
    fence(bmc, "on")
    machine.wait_for_boots("disk")
    assert fence(bmc, "status") == "Status: ON"
    fence(bmc, "reboot")
    machine.wait_for_boot(2)
    fence(bmc, "off")
    assert machine.state() == "shut off"
