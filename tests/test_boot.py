"""Boot verbs, the boot order and the reboot rule on real machines: the guest says what booted."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest

from tests.booting import (
    CONFLICT,
    OK,
    PATIENCE,
    Define,
    boot,
    boot_elements,
    commands,
    get_boot,
    machines,
    put_boot,
    set_boot,
)
from tests.daemon import Answer, Daemon
from tests.domains import without_note
from tests.lab import Cdrom, Key, Laboratory, Machine, Nic, until


@pytest.fixture(scope="module")
def daemon(lab: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    backups = tmp_path_factory.mktemp("boot") / "backups"
    with Daemon("--connect", lab.uri, "--backup-dir", str(backups)) as daemon:
        yield daemon


@pytest.fixture
def define(lab: Laboratory) -> Iterator[Define]:
    with machines(lab) as define:
        yield define


@pytest.fixture(params=["os", "device"])
def machine(request: pytest.FixtureRequest, define: Define) -> Machine:
    """A machine that is off, with either kind of boot order; only its disk is in it."""
    return define(boot=request.param)


# The verbs, in each state of a machine.


def test_off(machine: Machine, daemon: Daemon) -> None:
    first = machine.xml()
    with commands(daemon) as given:
        boot(daemon, machine, "pxeboot")
    assert given == ["define", "start"]
    machine.wait_for_boots("network")
    machine.destroy()
    boot(daemon, machine, "diskboot")
    machine.wait_for_boots("network", "disk")
    machine.destroy()
    assert boot_elements(machine.xml()) != boot_elements(first)
    boot(daemon, machine, "defaultboot")
    machine.wait_for_boots("network", "disk", "disk")
    assert boot_elements(machine.xml()) == boot_elements(first)
    status = get_boot(daemon, machine)
    assert status["order"] == status["default"] == ["disk:hda"]


def test_running_is_asked_to_shut_down(machine: Machine, daemon: Daemon) -> None:
    machine.boot()
    first = machine.xml()
    with commands(daemon) as given:
        boot(daemon, machine, "pxeboot")
        machine.wait_for_boots("disk", "network")
        boot(daemon, machine, "diskboot")
        machine.wait_for_boots("disk", "network", "disk")
        boot(daemon, machine, "defaultboot")
        machine.wait_for_boots("disk", "network", "disk", "disk")
    assert given == ["define", "shutdown", "start"] * 3
    assert machine.serial().count("power button") == 3
    assert boot_elements(machine.xml()) == boot_elements(first)


def test_running_with_no_grace_is_not_asked(define: Define, daemon: Daemon) -> None:
    machine = define(boot="device")
    machine.boot()
    with commands(daemon) as given:
        boot(daemon, machine, "pxeboot", grace=0)
    assert given == ["define", "destroy", "start"]
    machine.wait_for_boots("disk", "network")
    assert "power button" not in machine.serial()


def test_deaf_is_forced_off_after_the_grace_period(define: Define, daemon: Daemon) -> None:
    deaf = define(obeys_button=False)
    deaf.boot()
    with commands(daemon) as given:
        boot(daemon, deaf, "pxeboot", grace=0.3)
    assert given == ["define", "shutdown", "destroy", "start"]
    deaf.wait_for_boots("disk", "network")


def pause(machine: Machine) -> None:
    machine.virsh("suspend")


def crash(machine: Machine) -> None:
    machine.press(Key.PANIC)
    machine.wait_for_state("crashed (panicked)")


def sleep(machine: Machine) -> None:
    machine.press(Key.SLEEP)
    machine.wait_for_state("pmsuspended")


@pytest.mark.parametrize("stop", [pause, crash, sleep])
def test_guest_that_cannot_be_asked(
    define: Define, daemon: Daemon, stop: Callable[[Machine], None]
) -> None:
    machine = define()
    machine.boot()
    stop(machine)
    with commands(daemon) as given:
        boot(daemon, machine, "pxeboot")
    assert given == ["define", "destroy", "start"]
    machine.wait_for_boots("disk", "network")


def test_guest_stopped_by_an_io_error(define: Define, daemon: Daemon) -> None:
    machine = define(add=[Cdrom()], boot_order=["cdrom", "disk"], failing_disk=True)
    machine.boot()
    machine.press(Key.WRITE)
    machine.wait_for_state("paused (I/O error)")
    boot(daemon, machine, "diskboot")
    machine.wait_for_boots("cdrom", "disk")


def test_order_that_is_right_already_is_only_booted(
    lab: Laboratory, machine: Machine, tmp_path: Path
) -> None:
    with Daemon("--connect", lab.uri, "--backup-dir", str(tmp_path / "new")) as other:
        first = machine.xml()
        for verb, asked, steps in [
            ("defaultboot", None, ["start"]),
            ("diskboot", "disk", ["define", "start"]),
            ("diskboot", "disk", ["start"]),
            ("defaultboot", None, ["define", "start"]),
        ]:
            with commands(other) as given:
                boot(other, machine, verb)
            assert given == steps
            assert get_boot(other, machine)["device"] == asked
            assert without_note(machine.xml()) == first
            machine.wait_for_boot(1)
            machine.destroy()
        assert machine.xml() == first
    assert not (tmp_path / "new").exists()


def test_network_boot_by_dhcp_and_tftp(define: Define, daemon: Daemon) -> None:
    machine = define(add=[Nic(rom="ipxe")], boot="device")
    boot(daemon, machine, "pxeboot")
    machine.wait_for_boots("network")


# Setting the order powers nothing; every way to reboot then boots by it.


@pytest.mark.parametrize("kind", ["os", "device"])
def test_cdrom(define: Define, daemon: Daemon, kind: str) -> None:
    machine = define(add=[Nic(), Cdrom()], boot=kind, boot_order=["network", "disk"])
    machine.boot()
    set_boot(daemon, machine, "cdrom")
    boot(daemon, machine, "force_reset")
    machine.wait_for_boots("network", "cdrom")
    order = get_boot(daemon, machine)["order"]
    assert [name.partition(":")[0] for name in order] == ["cdrom", "network", "disk"]


def verb(name: str) -> Callable[[Daemon, Machine], None]:
    def reboot(daemon: Daemon, machine: Machine) -> None:
        answer = daemon.act(machine.name, name)
        assert (answer.status, answer.json["changed"]) == (OK, True), answer

    return reboot


def reset_by_hand(daemon: Daemon, machine: Machine) -> None:
    machine.virsh("reset")


def own_reboot(daemon: Daemon, machine: Machine) -> None:
    machine.press(Key.REBOOT)


REBOOTS = {
    "force_reset": verb("force_reset"),
    "reboot": verb("reboot"),
    "power_cycle": verb("power_cycle"),
    "virsh reset": reset_by_hand,
    "own reboot": own_reboot,
}


@pytest.mark.parametrize(("how", "kind"), [*zip(REBOOTS, cycle(["os", "device"]), strict=False)])
def test_every_reboot_boots_what_is_set(
    define: Define, daemon: Daemon, how: str, kind: str
) -> None:
    machine = define(boot=kind)
    machine.boot()
    process = machine.qemu_pid()
    set_boot(daemon, machine, "pxe")
    status = get_boot(daemon, machine)
    assert (status["pending"], status["once"]) == (True, None)
    assert [name.partition(":")[0] for name in status["order"]] == ["network", "disk"]
    assert machine.qemu_pid() == process
    REBOOTS[how](daemon, machine)
    machine.wait_for_reboot_into("disk", "network")
    assert not get_boot(daemon, machine)["pending"]
    # Nothing is pending any more: the process stays.
    process = machine.qemu_pid()
    machine.press(Key.REBOOT)
    machine.wait_for_boots("disk", "network", "network")
    daemon.act(machine.name, "nmi")
    assert machine.qemu_pid() == process


def test_order_taken_back_before_the_reboot_is_not_pending(define: Define, daemon: Daemon) -> None:
    machine = define(boot="device")
    machine.boot()
    process = machine.qemu_pid()
    set_boot(daemon, machine, "pxe")
    set_boot(daemon, machine, "default")
    assert not get_boot(daemon, machine)["pending"]
    boot(daemon, machine, "force_reset")
    machine.wait_for_boots("disk", "disk")
    assert machine.qemu_pid() == process


def test_paused_machine_reset_into_the_new_order_boots(define: Define, daemon: Daemon) -> None:
    machine = define()
    machine.boot()
    pause(machine)
    set_boot(daemon, machine, "pxe")
    boot(daemon, machine, "force_reset")
    machine.wait_for_boots("disk", "network")


@pytest.mark.parametrize("reboot", [reset_by_hand, own_reboot])
def test_order_that_others_set_waits_for_them(
    define: Define, daemon: Daemon, reboot: Callable[[Daemon, Machine], None]
) -> None:
    machine = define(boot="device", boot_order=["disk", "network"])
    machine.boot()
    process = machine.qemu_pid()
    first, second = "<boot order='1'/>", "<boot order='2'/>"
    swapped = machine.xml().replace(first, "X").replace(second, first).replace("X", second)
    machine.redefine(swapped)
    assert get_boot(daemon, machine)["pending"]
    looked = f"domstate --domain {machine.uuid} --reason"
    times = daemon.virsh_commands().count(looked)
    reboot(daemon, machine)
    machine.wait_for_boots("disk", "disk")
    until(lambda: daemon.virsh_commands().count(looked) > times, PATIENCE, "look at the reboot")
    # Takes its turn after the one who looked.
    assert daemon.act(machine.name, "nmi").status == OK
    assert machine.qemu_pid() == process
    assert machine.xml() == swapped


def test_order_that_others_set_is_the_new_default(define: Define, daemon: Daemon) -> None:
    machine = define(add=[Nic(), Cdrom()], boot_order=["disk"])
    boot(daemon, machine, "pxeboot")
    machine.redefine(machine.xml().replace("<boot dev='hd'/>", "<boot dev='cdrom'/>"))
    others = boot_elements(machine.xml())
    boot(daemon, machine, "diskboot")
    boot(daemon, machine, "defaultboot", grace=0)
    assert boot_elements(machine.xml()) == others


# Other verbs while a boot verb gives the guest its time.


@pytest.fixture
def deaf(define: Define) -> Machine:
    machine = define(obeys_button=False)
    machine.boot()
    return machine


def asked(daemon: Daemon, machine: Machine) -> None:
    given = f"shutdown --domain {machine.uuid}"
    until(lambda: given in daemon.virsh_commands(), PATIENCE, "shutdown of the guest")


def test_force_off_ends_the_grace_period(deaf: Machine, daemon: Daemon) -> None:
    with ThreadPoolExecutor(1) as other:
        booting = other.submit(daemon.act, deaf.name, "pxeboot", "?grace=600")
        asked(daemon, deaf)
        assert daemon.act(deaf.name, "force_off").status == OK
        assert (booting.result().status, booting.result().json["state"]) == (OK, "running")
    deaf.wait_for_boots("disk", "network")


@pytest.mark.parametrize("again", ["force_reset", "power_cycle"])
def test_machine_booted_meanwhile_is_not_booted_twice(
    deaf: Machine, daemon: Daemon, again: str
) -> None:
    with ThreadPoolExecutor(1) as other:
        booting = other.submit(daemon.act, deaf.name, "pxeboot", "?grace=600&once=true")
        asked(daemon, deaf)
        assert daemon.act(deaf.name, again).status == OK
        assert (booting.result().status, booting.result().json["state"]) == (OK, "running")
    deaf.wait_for_boots("disk", "network")
    assert get_boot(daemon, deaf)["once"] is None


def test_other_verbs_meanwhile_take_their_turn(deaf: Machine, daemon: Daemon) -> None:
    with ThreadPoolExecutor(9) as others:
        booting = others.submit(daemon.act, deaf.name, "pxeboot", "?grace=600")
        asked(daemon, deaf)
        verbs = ["power_on", "power_off", "cyclepower", "nmi", "reboot", "status"]
        answers: list[Answer] = list(others.map(lambda one: daemon.act(deaf.name, one), verbs))
        answers.append(put_boot(daemon, deaf, device="disk"))
        assert {answer.status for answer in answers} <= {OK, CONFLICT}
        assert not booting.done()
        assert daemon.act(deaf.name, "force_off").status == OK
        assert booting.result().status == OK
    # The last who set the order is obeyed.
    deaf.wait_for_boots("disk", "disk")


def test_two_boot_verbs_at_once_boot_what_was_set_last(deaf: Machine, daemon: Daemon) -> None:
    with ThreadPoolExecutor(1) as other:
        first = other.submit(daemon.act, deaf.name, "pxeboot", "?grace=600")
        asked(daemon, deaf)
        boot(daemon, deaf, "diskboot", grace=0)
        assert first.result().status == OK
    deaf.wait_for_boots("disk", "disk")
    assert get_boot(daemon, deaf)["order"][0] == "disk:hda"
