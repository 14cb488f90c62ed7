"""How a boot ends: a one-time boot is one QEMU process, whoever dies, and whatever ends it."""

import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from mc.errors import Refused
from tests.booting import (
    CONFLICT,
    OK,
    PATIENCE,
    Define,
    boot,
    booted_once,
    ended_unseen,
    get_boot,
    lifecycle,
    machines,
    remove,
    set_boot,
    wait_for_reboot_rule,
)
from tests.busy import busy_host
from tests.daemon import Daemon
from tests.hypervisor import open_virsh
from tests.lab import Key, Laboratory, Machine, Nic, until
from tests.relay import Relay

OFF = "shut off"


@pytest.fixture
def define(fragile: Laboratory) -> Iterator[Define]:
    with machines(fragile) as define:
        yield define


@pytest.fixture
def start(fragile: Laboratory, tmp_path: Path) -> Callable[[], Daemon]:
    return lambda: Daemon("--connect", fragile.uri, "--backup-dir", str(tmp_path / "backups"))


@pytest.fixture(scope="module")
def daemon(fragile: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    backups = tmp_path_factory.mktemp("end") / "backups"
    with Daemon("--connect", fragile.uri, "--backup-dir", str(backups)) as daemon:
        yield daemon


# libvirt is away when it ends.


def test_libvirtd_dead_when_the_guest_reboots(
    fragile: Laboratory, define: Define, daemon: Daemon
) -> None:
    machine = define()
    first = machine.xml()
    booted_once(daemon, machine)
    fragile.libvirtd.kill()
    with suppress(AssertionError):
        # It ends before it has told that it obeys.
        machine.press(Key.REBOOT)
    fragile.libvirtd.start()
    ended_unseen(daemon, machine, first)


def test_libvirtd_frozen_when_the_guest_reboots(
    fragile: Laboratory, define: Define, daemon: Daemon
) -> None:
    machine = define()
    first = machine.xml()
    booted_once(daemon, machine)
    fragile.libvirtd.freeze()
    machine.press(Key.REBOOT)
    fragile.libvirtd.thaw()
    machine.wait_for_boots("network", "disk")
    assert machine.xml() == first


# What ends it.


@pytest.mark.parametrize(
    ("on_poweroff", "after"), [("destroy", OFF), ("restart", "running")], ids=str
)
def test_power_off_of_the_guest_is_one(
    define: Define, daemon: Daemon, on_poweroff: str, after: str
) -> None:
    machine = define()
    if on_poweroff == "restart":
        lifecycle(machine, "on_poweroff", "restart")
    first = machine.xml()
    booted_once(daemon, machine)
    machine.press(Key.OFF)
    until(machine.xml, PATIENCE, "end of the one-time boot", lambda xml: xml == first)
    machine.wait_for_state(after)
    if after == "running":
        machine.wait_for_boots("network", "disk")
    assert machine.booted == ["network", "disk"][: 1 + (after == "running")]
    assert get_boot(daemon, machine)["ended_once"] is None
    assert re.search(
        rf"one-time boot \(pxe\) has ended by guest-shutdown.*uuid={machine.uuid}", daemon.log()
    )


def test_own_on_reboot_decides_as_well(define: Define, daemon: Daemon) -> None:
    machine = define()
    lifecycle(machine, "on_reboot", "destroy")
    first = machine.xml()
    booted_once(daemon, machine)
    machine.press(Key.REBOOT)
    until(machine.xml, PATIENCE, "end of the one-time boot", lambda xml: xml == first)
    assert (machine.state(), machine.booted) == (OFF, ["network"])


def test_panic_does_not_boot_the_network_again(define: Define, daemon: Daemon) -> None:
    machine = define()
    lifecycle(machine, "on_crash", "restart")
    first = machine.xml()
    booted_once(daemon, machine)
    machine.press(Key.PANIC)
    machine.wait_for_boots("network", "disk")
    assert machine.xml() == first


def test_cut_power_leaves_nothing_of_it(define: Define, daemon: Daemon) -> None:
    machine = define()
    first = machine.xml()
    booted_once(daemon, machine)
    assert daemon.act(machine.name, "force_off").status == OK
    until(machine.xml, PATIENCE, "end of the one-time boot", lambda xml: xml == first)
    assert (machine.state(), machine.booted) == (OFF, ["network"])


@pytest.mark.parametrize("verb", ["reboot", "force_reset", "power_cycle"])
def test_verbs_end_it_with_the_machine_running(define: Define, daemon: Daemon, verb: str) -> None:
    machine = define()
    first = machine.xml()
    booted_once(daemon, machine)
    assert daemon.act(machine.name, verb).status == OK
    machine.wait_for_boots("network", "disk")
    assert (machine.xml(), machine.state()) == (first, "running")


def test_one_time_boot_by_the_order_that_there_is(define: Define, daemon: Daemon) -> None:
    """Its process ends at a reboot as well."""
    machine = define()
    boot(daemon, machine, "diskboot", once="true")
    machine.wait_for_boots("disk")
    for number, verb in enumerate(("force_reset", "reboot"), 2):
        assert daemon.act(machine.name, verb).status == OK
        machine.wait_for_boot(number)
        assert machine.state() == "running"


# A machine whose own on_reboot is `destroy`, as virt-install leaves it while it installs.


@pytest.mark.parametrize("verb", ["reboot", "force_reset", "force_reboot", "power_cycle"])
def test_verbs_leave_a_machine_running_that_a_reboot_would_end(
    define: Define, daemon: Daemon, verb: str
) -> None:
    machine = define()
    lifecycle(machine, "on_reboot", "destroy")
    machine.boot()
    set_boot(daemon, machine, "pxe")
    answer = daemon.act(machine.name, verb)
    # A guest that was asked to reboot may have obeyed already.
    assert answer.status == OK and (verb == "reboot" or answer.json["state"] == "running"), answer
    machine.wait_for_boots("disk", "network")
    assert machine.state() == "running"


def test_its_guest_that_reboots_or_powers_off_ends_it(define: Define, daemon: Daemon) -> None:
    machine = define()
    lifecycle(machine, "on_reboot", "destroy")
    for key in (Key.REBOOT, Key.OFF):
        machine.boot()
        machine.press(key)
        machine.wait_for_state(OFF)
        # Takes its turn after whoever might start it.
        assert daemon.act(machine.name, "force_off").json["changed"] is False


# An order set right after a reset.


@pytest.mark.parametrize("chipset", ["pc", "q35"])
def test_order_set_after_a_reset_waits_on_a_busy_host(
    define: Define, daemon: Daemon, chipset: str
) -> None:
    machine = define(machine=chipset)
    machine.boot()
    process = machine.qemu_pid()
    with busy_host():
        for boots in range(2, 10):
            assert daemon.act(machine.name, "force_reset").status == OK
            set_boot(daemon, machine, "pxe", once=True)
            machine.wait_for_boots(*["disk"] * boots)
            assert machine.qemu_pid() == process
            assert get_boot(daemon, machine)["once"] == "pxe"
            set_boot(daemon, machine, "none")
    set_boot(daemon, machine, "pxe", once=True)
    machine.press(Key.REBOOT)
    machine.wait_for_reboot_into(*["disk"] * 9, "network")


@pytest.mark.parametrize("what", ["note", "definition"])
def test_machine_defined_by_others_in_a_one_time_boot_is_started_after_it(
    define: Define, daemon: Daemon, what: str
) -> None:
    machine = define()
    first = machine.xml()
    booted_once(daemon, machine)
    if what == "note":
        uri = "urn:libvirt_http_mc:boot:1"
        machine.virsh("metadata", "--uri", uri, "--remove", "--config")
    else:
        machine.redefine(first)
    machine.press(Key.REBOOT)
    machine.wait_for_boots("network", "disk")


# A run that is not the one that was meant.


def test_name_like_the_uuid_of_another_machine(
    fragile: Laboratory, define: Define, daemon: Daemon
) -> None:
    """An event tells a name: the machine of that UUID has nothing to do with it."""
    other = define()
    other.boot()
    set_boot(daemon, other, "pxe")
    process = other.qemu_pid()
    machine = fragile.define(other.uuid, add=[Nic()])
    try:
        machine.boot()
        path = f"/service/{machine.uuid}/boot"
        assert daemon.request("PUT", path, b'{"device": "pxe", "once": true}').status == OK
        machine.press(Key.REBOOT)
        machine.wait_for_reboot_into("disk", "network")
        machine.press(Key.REBOOT)
        machine.wait_for_reboot_into("disk", "network", "disk")
        assert (other.qemu_pid(), other.booted) == (process, ["disk"])
    finally:
        remove(fragile, machine)


def test_late_event_does_not_cut_the_next_run(define: Define, daemon: Daemon) -> None:
    """What is pending then is somebody else's, and was not there when that run rebooted."""
    machine = define(boot="device", boot_order=["disk", "network"])
    machine.boot()
    set_boot(daemon, machine, "pxe")
    daemon.process.send_signal(signal.SIGSTOP)
    machine.press(Key.REBOOT)
    machine.wait_for_boots("disk", "disk")
    machine.destroy()
    machine.start()
    machine.wait_for_boots("disk", "disk", "network")
    swapped = {"1": "2", "2": "1"}
    machine.redefine(
        re.sub(r"order='([12])'", lambda found: f"order='{swapped[found[1]]}'", machine.xml())
    )
    process = machine.qemu_pid()
    daemon.process.send_signal(signal.SIGCONT)
    wait_for_reboot_rule(daemon, define)
    assert daemon.act(machine.name, "nmi").status == OK
    assert machine.qemu_pid() == process
    assert get_boot(daemon, machine)["pending"]


def test_number_of_a_run_is_no_name(fragile: Laboratory, daemon: Daemon) -> None:
    """virsh takes a number that no machine has for a name, or for part of a UUID."""
    machine = fragile.define("31337")
    virsh = open_virsh(fragile.uri)
    try:
        machine.start()
        with pytest.raises(Refused, match="failed to get domain"):
            virsh.destroy(31337)
        assert machine.state() == "running"
        virsh.destroy(int(virsh.dominfo("31337")["Id"]))
        assert machine.state() == OFF
    finally:
        virsh.close()
        remove(fragile, machine)


def test_one_time_boot_goes_on_from_a_saved_image(define: Define, daemon: Daemon) -> None:
    machine = define()
    first = machine.xml()
    booted_once(daemon, machine)
    machine.virsh("managedsave")
    machine.wait_for_state("shut off (saved)")
    status = get_boot(daemon, machine)
    assert (status["ended_once"], status["running_once"]) == (None, None)
    boot(daemon, machine, "power_on")
    assert get_boot(daemon, machine)["running_once"] == "pxe"
    machine.press(Key.REBOOT)
    machine.wait_for_boots("network", "disk")
    assert machine.xml() == first


# Two controllers on one libvirt, one of them far away.


@pytest.mark.parametrize("round_trip", [0.02, 0.05], ids=str)
def test_two_daemons_boot_once(
    fragile: Laboratory, define: Define, daemon: Daemon, tmp_path: Path, round_trip: float
) -> None:
    near = Path(fragile.uri.partition("socket=")[2])
    with (
        Relay(near, round_trip / 2, tmp_path / "far") as relay,
        Daemon("--connect", relay.uri, "--backup-dir", str(tmp_path / "backups")) as far,
    ):
        wait_for_reboot_rule(far, define)
        machine = define()
        first = machine.xml()
        machine.boot()
        expected = ["disk"]
        for tries in range(4):
            set_boot((daemon, far)[tries % 2], machine, "pxe", once=True)
            machine.press(Key.REBOOT)
            machine.wait_for_reboot_into(*expected, "network")
            network = machine.qemu_pid()
            # Both have dealt with it.
            for each in (daemon, far):
                assert each.act(machine.name, "nmi").status == OK
            assert machine.qemu_pid() == network
            machine.press(Key.REBOOT)
            expected += ["network", "disk"]
            machine.wait_for_reboot_into(*expected)
            until(machine.xml, PATIENCE, "end of the one-time boot", lambda xml: xml == first)
        for each in (daemon, far):
            assert each.act(machine.name, "nmi").status == OK
            assert [w for w in warnings(each) if machine.uuid in w] == []
        assert machine.booted == expected


def warnings(daemon: Daemon) -> list[str]:
    return [line for line in daemon.log().splitlines() if re.search(" (WARNING|ERROR) ", line)]


# What is prepared before the power is cut.


def without_interface(machine: Machine) -> None:
    machine.redefine(re.sub(r"<interface.*?</interface>", "", machine.xml(), flags=re.DOTALL))


@pytest.mark.parametrize("verb", ["force_reset", "power_cycle"])
def test_machine_runs_on_where_its_boot_cannot_be_prepared(
    define: Define, daemon: Daemon, verb: str
) -> None:
    machine = define()
    machine.boot()
    set_boot(daemon, machine, "pxe", once=True)
    without_interface(machine)
    process = machine.qemu_pid()
    answer = daemon.act(machine.name, verb)
    assert answer.status == CONFLICT, answer
    assert "no interface" in answer.json["detail"]
    assert "done" not in answer.json
    assert (machine.qemu_pid(), machine.state()) == (process, "running")
    log = daemon.log_size()
    machine.press(Key.REBOOT)
    machine.wait_for_boots("disk", "disk")
    until(lambda: daemon.log(log), PATIENCE, "warning", lambda log: "no interface" in log)
    assert machine.qemu_pid() == process
    set_boot(daemon, machine, "none")
    assert daemon.act(machine.name, verb).status == OK
    machine.wait_for_boots("disk", "disk", "disk")


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("verb", ["force_reset", "power_cycle", "pxeboot"])
def test_start_that_fails_after_the_cut_says_why(
    define: Define, daemon: Daemon, verb: str, once: bool
) -> None:
    machine = define()
    machine.boot()
    set_boot(daemon, machine, "pxe", once=once)
    moved = machine.disk.rename(machine.disk.with_suffix(".away"))
    query = f"?grace=0&once={str(once).lower()}" if verb == "pxeboot" else ""
    answer = daemon.act(machine.name, verb, query)
    assert answer.status == CONFLICT, answer
    assert "No such file or directory" in answer.json["detail"]
    assert "destroy" in answer.json["done"]
    assert machine.state() == OFF
    assert get_boot(daemon, machine)["once"] == ("pxe" if once else None)
    moved.rename(machine.disk)
    boot(daemon, machine, "power_on")
    machine.wait_for_boots("disk", "network")


# What cannot be started again is not cut.


@pytest.mark.parametrize("once", [False, True])
def test_machine_undefined_while_it_runs_is_not_cut(
    define: Define, daemon: Daemon, once: bool
) -> None:
    machine = define()
    machine.boot()
    set_boot(daemon, machine, "pxe", once=once)
    machine.virsh("undefine")
    process = machine.qemu_pid()
    assert daemon.act(machine.name, "force_reset").status == OK
    machine.wait_for_boots("disk", "disk")
    assert daemon.act(machine.name, "power_cycle").status == CONFLICT
    machine.press(Key.REBOOT)
    machine.wait_for_boots("disk", "disk", "disk")
    assert daemon.act(machine.name, "nmi").status == OK
    assert machine.qemu_pid() == process


def test_machine_undefined_in_a_one_time_boot_is_not_asked_to_reboot(
    define: Define, daemon: Daemon
) -> None:
    """That would end its process, and it is gone with that."""
    machine = define()
    assert daemon.act(machine.name, "pxeboot", "?once=true").status == OK
    machine.wait_for_boots("network")
    machine.virsh("undefine")
    process = machine.qemu_pid()
    assert daemon.act(machine.name, "reboot").status == CONFLICT
    assert daemon.act(machine.name, "nmi").status == OK
    assert machine.qemu_pid() == process


def test_machine_undefined_in_the_grace_period_is_not_cut(define: Define, daemon: Daemon) -> None:
    machine = define(obeys_button=False)
    machine.boot()
    process = machine.qemu_pid()
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(daemon.act, machine.name, "pxeboot", "?grace=2")
        until(
            daemon.virsh_commands,
            PATIENCE,
            "question to the guest",
            lambda given: f"shutdown --domain {machine.uuid}" in given,
        )
        machine.virsh("undefine")
        answer = asked.result()
    assert answer.status == CONFLICT, answer
    assert "transient" in answer.json["detail"]
    assert answer.json["done"] == ["define", "shutdown"]
    assert (machine.qemu_pid(), machine.state()) == (process, "running")
