"""One-time boots on real machines: they happen once, whatever dies in between."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.booting import (
    CONFLICT,
    OK,
    PATIENCE,
    Define,
    boot,
    commands,
    event_stream,
    get_boot,
    kill,
    machines,
    put_boot,
    set_boot,
    wait_for_reboot_rule,
)
from tests.daemon import Daemon
from tests.domains import without_note
from tests.lab import Key, Laboratory, Machine, until


@pytest.fixture
def define(fragile: Laboratory) -> Iterator[Define]:
    with machines(fragile) as define:
        yield define


@pytest.fixture(params=["os", "device"])
def machine(request: pytest.FixtureRequest, define: Define) -> Machine:
    """A machine that is off, with either kind of boot order; only its disk is in it."""
    return define(boot=request.param)


@pytest.fixture
def start(fragile: Laboratory, tmp_path: Path) -> Callable[[], Daemon]:
    return lambda: Daemon("--connect", fragile.uri, "--backup-dir", str(tmp_path / "backups"))


@pytest.fixture(scope="module")
def daemon(fragile: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    backups = tmp_path_factory.mktemp("once") / "backups"
    with Daemon("--connect", fragile.uri, "--backup-dir", str(backups)) as daemon:
        yield daemon


def over(daemon: Daemon, machine: Machine, first: str) -> None:
    """The machine runs by its order; nothing is left of the one-time boot, nor in its XML."""
    status = get_boot(daemon, machine)
    assert (status["pending"], status["once"]) == (False, None)
    assert (status["running_once"], status["ended_once"]) == (None, None)
    assert machine.xml() == first


def test_off_machine_boots_once_then_by_its_order(machine: Machine, daemon: Daemon) -> None:
    first = machine.xml()
    boot(daemon, machine, "pxeboot", once="true")
    machine.wait_for_boots("network")
    assert without_note(machine.xml()) == first
    status = get_boot(daemon, machine)
    assert (status["order"], status["pending"], status["once"]) == (["disk:hda"], True, None)
    assert (status["running_once"], status["ended_once"]) == ("pxe", None)
    machine.press(Key.REBOOT)
    machine.wait_for_reboot_into("network", "disk")
    over(daemon, machine, first)
    process = machine.qemu_pid()
    machine.press(Key.REBOOT)
    machine.wait_for_boots("network", "disk", "disk")
    assert daemon.act(machine.name, "nmi").status == OK
    assert machine.qemu_pid() == process


def test_running_machine_boots_once(define: Define, daemon: Daemon) -> None:
    machine = define()
    machine.boot()
    first = machine.xml()
    with commands(daemon) as given:
        boot(daemon, machine, "pxeboot", once="true")
    assert given == ["define", "shutdown", "define", "create"]
    machine.wait_for_boots("disk", "network")
    machine.virsh("reset")
    machine.wait_for_reboot_into("disk", "network", "disk")
    over(daemon, machine, first)


def test_order_set_right_after_a_reset_is_for_the_boot_after_it(
    define: Define, daemon: Daemon
) -> None:
    """The news of the reset may come after the order was set."""
    machine = define()
    machine.boot()
    process = machine.qemu_pid()
    for resets in range(1, 4):
        by("force_reset")(daemon, machine)
        set_boot(daemon, machine, "pxe", once=True)
        machine.wait_for_boots(*["disk"] * (resets + 1))
        assert machine.qemu_pid() == process
        assert get_boot(daemon, machine)["once"] == "pxe"
        assert put_boot(daemon, machine, device="none").status == OK
    machine.press(Key.REBOOT)
    machine.wait_for_boots(*["disk"] * 5)
    set_boot(daemon, machine, "pxe", once=True)
    machine.press(Key.REBOOT)
    machine.wait_for_reboot_into(*["disk"] * 5, "network")


def own_reboot(daemon: Daemon, machine: Machine) -> None:
    machine.press(Key.REBOOT)


def reset_by_hand(daemon: Daemon, machine: Machine) -> None:
    machine.virsh("reset")


def by(verb: str) -> Callable[[Daemon, Machine], None]:
    def act(daemon: Daemon, machine: Machine) -> None:
        answer = daemon.act(machine.name, verb)
        assert (answer.status, answer.json["changed"]) == (OK, True), answer

    return act


CONSUMERS = {
    "power_on": by("power_on"),
    "force_reset": by("force_reset"),
    "power_cycle": by("power_cycle"),
    "virsh reset": reset_by_hand,
    "own reboot": own_reboot,
}


@pytest.mark.parametrize("how", CONSUMERS)
def test_mark_is_consumed_once(define: Define, daemon: Daemon, how: str) -> None:
    machine = define()
    first = machine.xml()
    before = [] if how == "power_on" else ["disk"]
    if before:
        machine.boot()
    set_boot(daemon, machine, "pxe", once=True)
    status = get_boot(daemon, machine)
    assert (status["order"], status["once"]) == (["disk:hda"], "pxe")
    CONSUMERS[how](daemon, machine)
    machine.wait_for_reboot_into(*before, "network")
    assert get_boot(daemon, machine)["once"] is None
    again = "force_reset" if how == "power_on" else how
    CONSUMERS[again](daemon, machine)
    machine.wait_for_reboot_into(*before, "network", "disk")
    over(daemon, machine, first)


def test_event_of_a_process_that_is_gone_does_not_end_a_one_time_boot(
    define: Define, daemon: Daemon
) -> None:
    """Two reboots that the daemon hears of at once: the first one is followed, into a new QEMU."""
    machine = define()
    machine.boot()
    set_boot(daemon, machine, "pxe", once=True)
    daemon.process.send_signal(signal.SIGSTOP)
    for boots in (2, 3):
        machine.virsh("reset")
        machine.wait_for_boot(boots)
    daemon.process.send_signal(signal.SIGCONT)
    machine.wait_for_boots("disk", "disk", "disk", "network")
    # Takes its turn after whoever follows the second one.
    assert daemon.act(machine.name, "nmi").status == OK
    assert machine.booted[3:] == ["network"]
    assert get_boot(daemon, machine)["pending"]


def test_order_set_for_good_clears_the_mark(define: Define, daemon: Daemon) -> None:
    machine = define()
    first = machine.xml()
    set_boot(daemon, machine, "pxe", once=True)
    assert machine.xml() != first
    set_boot(daemon, machine, "disk")
    assert get_boot(daemon, machine)["device"] == "disk"
    assert put_boot(daemon, machine, device="default").status == OK
    over(daemon, machine, first)
    boot(daemon, machine, "power_on")
    machine.wait_for_boots("disk")


def test_last_mark_counts(define: Define, daemon: Daemon) -> None:
    machine = define()
    set_boot(daemon, machine, "pxe", once=True)
    set_boot(daemon, machine, "disk", once=True)
    boot(daemon, machine, "power_on")
    machine.wait_for_boots("disk")
    assert get_boot(daemon, machine)["once"] is None


def test_default_once(define: Define, daemon: Daemon) -> None:
    machine = define(boot="device")
    boot(daemon, machine, "pxeboot")
    machine.wait_for_boots("network")
    persistent = machine.xml()
    boot(daemon, machine, "defaultboot", once="true", grace=0)
    machine.wait_for_boots("network", "disk")
    machine.press(Key.REBOOT)
    machine.wait_for_reboot_into("network", "disk", "network")
    over(daemon, machine, persistent)


def test_start_that_fails_keeps_the_mark(define: Define, daemon: Daemon) -> None:
    machine = define(boot="device")
    first = machine.xml()
    moved = machine.disk.rename(machine.disk.with_suffix(".away"))
    answer = daemon.act(machine.name, "pxeboot", "?once=true")
    assert answer.status == CONFLICT, answer
    assert "No such file or directory" in answer.json["detail"]
    assert (machine.state(), get_boot(daemon, machine)["once"]) == ("shut off", "pxe")
    moved.rename(machine.disk)
    boot(daemon, machine, "power_on")
    machine.wait_for_boots("network")
    machine.press(Key.REBOOT)
    machine.wait_for_reboot_into("network", "disk")
    over(daemon, machine, first)


# The mark, and the one-time boot that it has led to, outlive daemons, libvirtd and virsh.


def test_mark_outlives_the_daemon(define: Define, start: Callable[[], Daemon]) -> None:
    machine = define()
    first = machine.xml()
    with start() as daemon:
        set_boot(daemon, machine, "pxe", once=True)
    with start() as daemon:
        assert get_boot(daemon, machine)["once"] == "pxe"
        boot(daemon, machine, "power_on")
        machine.wait_for_boots("network")
        boot(daemon, machine, "power_cycle")
        machine.wait_for_boots("network", "disk")
        over(daemon, machine, first)


def test_daemon_killed_between_the_one_time_boot_and_the_reboot(
    define: Define, start: Callable[[], Daemon]
) -> None:
    machine = define()
    first = machine.xml()
    with start() as daemon:
        boot(daemon, machine, "pxeboot", once="true")
        daemon.kill()
    machine.wait_for_boots("network")
    with start() as daemon:
        wait_for_reboot_rule(daemon, define)
        machine.press(Key.REBOOT)
        machine.wait_for_reboot_into("network", "disk")
        over(daemon, machine, first)


def test_libvirtd_restarted_between_the_one_time_boot_and_the_reboot(
    fragile: Laboratory, define: Define, daemon: Daemon
) -> None:
    machine = define()
    first = machine.xml()
    boot(daemon, machine, "pxeboot", once="true")
    machine.wait_for_boots("network")
    fragile.libvirtd.kill()
    fragile.libvirtd.start()
    wait_for_reboot_rule(daemon, define)
    machine.press(Key.REBOOT)
    machine.wait_for_reboot_into("network", "disk")
    over(daemon, machine, first)


def test_event_stream_killed_between_the_one_time_boot_and_the_reboot(
    define: Define, daemon: Daemon
) -> None:
    machine = define()
    first = machine.xml()
    boot(daemon, machine, "pxeboot", once="true")
    machine.wait_for_boots("network")
    stream = until(lambda: event_stream(daemon), PATIENCE, "event stream")
    kill(stream)
    until(
        lambda: event_stream(daemon), PATIENCE, "new stream", lambda pid: pid not in {None, stream}
    )
    wait_for_reboot_rule(daemon, define)
    machine.press(Key.REBOOT)
    machine.wait_for_reboot_into("network", "disk")
    over(daemon, machine, first)


def test_daemon_without_libvirtd_follows_reboots_once_it_is_there(
    fragile: Laboratory, define: Define, start: Callable[[], Daemon]
) -> None:
    machine = define()
    with start() as daemon:
        boot(daemon, machine, "pxeboot", once="true")
    machine.wait_for_boots("network")
    fragile.libvirtd.kill()
    with start() as daemon:
        fragile.libvirtd.start()
        wait_for_reboot_rule(daemon, define)
        machine.press(Key.REBOOT)
        machine.wait_for_reboot_into("network", "disk")


def test_put_says_what_is_set(define: Define, daemon: Daemon) -> None:
    machine = define()
    answer = put_boot(daemon, machine, device="pxe", once=True)
    assert answer.json == {
        "host": "local",
        "machine": machine.name,
        "uuid": machine.uuid,
        "changed": True,
        **get_boot(daemon, machine),
    }
    assert not put_boot(daemon, machine, device="pxe", once=True).json["changed"]
