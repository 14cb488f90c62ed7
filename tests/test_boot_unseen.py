"""One-time boots that end while no controller is there: they are not begun again."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mc.boot.backup import Backups
from mc.boot.definitions import Definitions
from mc.boot.starts import Starts
from mc.machine.machines import Machines
from mc.machine.supply import Supply
from tests.booting import (
    PATIENCE,
    Define,
    boot,
    booted_once,
    ended_unseen,
    get_boot,
    machines,
    set_boot,
    wait_for_reboot_rule,
)
from tests.daemon import Daemon
from tests.domains import without_note
from tests.hypervisor import open_virsh
from tests.lab import Key, Laboratory, until

OFF = "shut off"


@pytest.fixture
def define(fragile: Laboratory) -> Iterator[Define]:
    with machines(fragile) as define:
        yield define


@pytest.fixture
def start(fragile: Laboratory, tmp_path: Path) -> Callable[[], Daemon]:
    return lambda: Daemon("--connect", fragile.uri, "--backup-dir", str(tmp_path / "backups"))


@pytest.mark.parametrize("kind", ["os", "device"])
def test_daemon_dead_when_the_guest_reboots(
    define: Define, start: Callable[[], Daemon], kind: str
) -> None:
    machine = define(boot=kind)
    first = machine.xml()
    with start() as daemon:
        booted_once(daemon, machine)
        daemon.kill()
    machine.press(Key.REBOOT)
    machine.wait_for_state(OFF)
    with start() as daemon:
        ended_unseen(daemon, machine, first)


def test_machine_started_by_hand_after_an_end_that_nobody_saw(
    define: Define, start: Callable[[], Daemon]
) -> None:
    machine = define()
    first = machine.xml()
    with start() as daemon:
        booted_once(daemon, machine)
        daemon.kill()
    machine.press(Key.REBOOT)
    machine.wait_for_state(OFF)
    machine.start()
    with start() as daemon:
        machine.wait_for_boots("network", "disk")
        status = get_boot(daemon, machine)
        assert (status["running_once"], status["pending"]) == (None, False)
        assert without_note(machine.xml()) == first
        boot(daemon, machine, "power_cycle")
        machine.wait_for_boots("network", "disk", "disk")
        assert machine.xml() == first


@pytest.mark.parametrize("verb", [None, "power_cycle"])
@pytest.mark.parametrize("once", [False, True])
def test_end_of_the_daemon_leaves_no_machine_off(
    define: Define, start: Callable[[], Daemon], once: bool, verb: str | None
) -> None:
    """It is told to end while a machine is off that it has switched off to start it."""
    machine = define()
    machine.boot()
    with start() as daemon:
        if verb is None:
            wait_for_reboot_rule(daemon, define)
        set_boot(daemon, machine, "pxe", once=once)
        with ThreadPoolExecutor(1) as other:
            cut = f"destroy --domain {machine.number():0256d}"
            if verb is None:
                machine.press(Key.REBOOT)
            else:
                other.submit(daemon.act, machine.name, verb)
            until(daemon.log, PATIENCE, "cut", lambda log: cut in log)
            daemon.stop()
    machine.wait_for_reboot_into("disk", "network")


def test_look_back_reads_others_once_and_asks_no_more(
    define: Define, start: Callable[[], Daemon]
) -> None:
    """Thousands of machines far away have nothing of a one-time boot."""
    off, on, machine = define(), define(), define()
    on.boot()
    first = machine.xml()
    with start() as daemon:
        booted_once(daemon, machine)
        daemon.kill()
    machine.press(Key.REBOOT)
    with start() as daemon:
        ended_unseen(daemon, machine, first)
        given = daemon.virsh_commands()
        for other in (off, on):
            assert {one for one in given if other.uuid in one} == {f"dumpxml --domain {other.uuid}"}


def test_machine_started_while_one_looks_is_not_said_to_stay_off(
    define: Define, start: Callable[[], Daemon], fragile: Laboratory, tmp_path: Path
) -> None:
    """By another controller, which has seen the end."""
    machine = define()
    with start() as daemon:
        booted_once(daemon, machine)
        daemon.kill()
    machine.press(Key.REBOOT)
    machine.wait_for_state(OFF)
    with closing(open_virsh(fragile.uri)) as virsh:
        found = Machines(virsh)
        starts = Starts(virsh, Supply(found, virsh), Definitions(virsh, Backups(tmp_path, 10)))
        off = found.find(machine.uuid)
        assert starts.ended_once(off) == "pxe"
        machine.start()
        assert starts.ended_once(off) is None
