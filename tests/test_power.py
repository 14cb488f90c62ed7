"""The power verbs on real machines: the guest itself says what happened to it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tests.daemon import Answer, Daemon, destroy
from tests.lab import Key, Laboratory, Machine, until

OK, NOT_FOUND, CONFLICT = 200, 404, 409
Act = Callable[..., Answer]
_numbers = count(1)


@pytest.fixture
def machine(lab: Laboratory) -> Iterator[Machine]:
    """A machine that is off; its guest obeys the power button."""
    with_name = lab.define(f"obedient-{next(_numbers)}")
    yield with_name
    remove(with_name)


@pytest.fixture
def deaf(lab: Laboratory) -> Iterator[Machine]:
    """A machine that runs a guest which ignores the power button."""
    machine = lab.define(f"deaf-{next(_numbers)}", obeys_button=False)
    machine.boot()
    yield machine
    remove(machine)


def remove(machine: Machine) -> None:
    if machine.state() != "shut off":
        machine.destroy()
    machine.virsh("undefine")


def changed(answer: Answer, state: str, *, by: bool = True) -> None:
    assert answer.status == OK, answer
    assert (answer.json["changed"], answer.json["state"]) == (by, state), answer


def refused(answer: Answer, machine: Machine, state: str) -> None:
    """409, and the machine is as it was."""
    assert answer.status == CONFLICT, answer
    assert answer.json["uuid"] == machine.uuid
    assert machine.state_and_reason() == state


# A machine that is off.


def test_off_power_on(machine: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(machine.name, "power_on"), "running")
    machine.wait_for_boot(1)
    changed(daemon_on_lab.act(machine.name, "power_on"), "running", by=False)


def test_off_cyclepower(machine: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(machine.name, "cyclepower"), "running")
    machine.wait_for_boot(1)
    assert daemon_on_lab.act(machine.name, "cyclepower").json["changed"]
    machine.wait_for_state("shut off (shutdown)")


@pytest.mark.parametrize("verb", ["power_off", "force_off"])
def test_off_holds_already(machine: Machine, daemon_on_lab: Daemon, verb: str) -> None:
    changed(daemon_on_lab.act(machine.name, verb), "shut off", by=False)


@pytest.mark.parametrize("verb", ["power_cycle", "reboot", "force_reset", "force_reboot", "nmi"])
def test_off_refuses(machine: Machine, daemon_on_lab: Daemon, verb: str) -> None:
    before = machine.state_and_reason()
    refused(daemon_on_lab.act(machine.name, verb), machine, before)


def test_start_that_fails_says_why_in_libvirts_words(
    machine: Machine, daemon_on_lab: Daemon
) -> None:
    machine.disk.unlink()
    answer = daemon_on_lab.act(machine.name, "power_on")
    assert answer.status == CONFLICT
    assert "No such file or directory" in answer.json["detail"]
    assert "done" not in answer.json


# A machine that runs and listens.


def test_running_power_off_without_waiting(machine: Machine, daemon_on_lab: Daemon) -> None:
    machine.boot()
    answer = daemon_on_lab.act(machine.name, "power_off")
    assert (answer.status, answer.json["changed"]) == (OK, True)
    machine.wait_for_state("shut off (shutdown)")


def test_running_power_off_waits_for_the_guest(machine: Machine, daemon_on_lab: Daemon) -> None:
    machine.boot()
    changed(daemon_on_lab.act(machine.name, "power_off", "?wait=30&force=true"), "shut off")
    assert machine.state_and_reason() == "shut off (shutdown)"


def test_running_reboot(machine: Machine, daemon_on_lab: Daemon) -> None:
    machine.boot()
    process = machine.qemu_pid()
    assert daemon_on_lab.act(machine.name, "reboot").json["changed"]
    machine.wait_for_boot(2)
    assert machine.qemu_pid() == process


@pytest.mark.parametrize("verb", ["force_reset", "force_reboot"])
def test_running_reset(machine: Machine, daemon_on_lab: Daemon, verb: str) -> None:
    machine.boot()
    process = machine.qemu_pid()
    changed(daemon_on_lab.act(machine.name, verb), "running")
    machine.wait_for_boot(2)
    assert machine.qemu_pid() == process


def test_running_power_cycle(machine: Machine, daemon_on_lab: Daemon) -> None:
    machine.boot()
    process = machine.qemu_pid()
    changed(daemon_on_lab.act(machine.name, "power_cycle"), "running")
    machine.wait_for_boot(2)
    assert machine.qemu_pid() != process


def test_running_nmi(machine: Machine, daemon_on_lab: Daemon) -> None:
    machine.boot()
    changed(daemon_on_lab.act(machine.name, "nmi"), "running")


def test_power_cycle_whose_start_fails_tells_what_was_done(
    machine: Machine, daemon_on_lab: Daemon
) -> None:
    machine.boot()
    machine.disk.unlink()
    answer = daemon_on_lab.act(machine.name, "power_cycle")
    assert (answer.status, answer.json["done"]) == (CONFLICT, ["destroy"])
    assert machine.state() == "shut off"


# A machine that runs and ignores the power button.


def test_deaf_power_off_asks_and_leaves_it_at_that(deaf: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(deaf.name, "power_off"), "running")
    changed(daemon_on_lab.act(deaf.name, "power_off", "?wait=0.3"), "running")
    changed(daemon_on_lab.act(deaf.name, "cyclepower"), "running")
    changed(daemon_on_lab.act(deaf.name, "reboot"), "running")
    assert deaf.boots == 1


def test_deaf_power_off_by_force(deaf: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(deaf.name, "power_off", "?wait=0.3&force=true"), "shut off")
    assert deaf.state_and_reason() == "shut off (destroyed)"


def test_deaf_force_off(deaf: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(deaf.name, "force_off"), "shut off")


def test_deaf_power_cycle_and_reset(deaf: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(deaf.name, "power_cycle"), "running")
    deaf.wait_for_boot(2)
    changed(daemon_on_lab.act(deaf.name, "force_reset"), "running")
    deaf.wait_for_boot(3)


def test_force_off_ends_a_power_off_that_waits(deaf: Machine, daemon_on_lab: Daemon) -> None:
    number = deaf.number()
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(daemon_on_lab.act, deaf.name, "power_off", "?wait=600&force=true")
        asked = f"shutdown --domain {deaf.uuid}"
        until(lambda: asked in daemon_on_lab.virsh_commands(), 30, "shutdown of the guest")
        changed(daemon_on_lab.act(deaf.name, "force_off"), "shut off")
        changed(waiting.result(), "shut off")
    destroyed = {c for c in daemon_on_lab.virsh_commands() if c.startswith(destroy(number))}
    assert destroyed == {destroy(number, graceful=True)}


def test_machine_started_again_meanwhile_is_not_forced_off(
    machine: Machine, daemon_on_lab: Daemon
) -> None:
    machine.boot()
    with ThreadPoolExecutor(1) as other:
        machine.freeze()
        waiting = other.submit(daemon_on_lab.act, machine.name, "power_off", "?wait=3&force=1")
        asked = f"shutdown --domain {machine.uuid}"
        until(lambda: asked in daemon_on_lab.virsh_commands(), 30, "shutdown of the guest")
        machine.thaw()
        machine.wait_for_state("shut off")
        machine.start()
        assert waiting.result().json["changed"]
    assert machine.state() == "running"


# A machine paused by an administrator.


@pytest.fixture
def paused(machine: Machine) -> Machine:
    machine.boot()
    machine.virsh("suspend")
    return machine


@pytest.mark.parametrize("verb", ["power_off", "cyclepower"])
def test_paused_cannot_be_asked(paused: Machine, daemon_on_lab: Daemon, verb: str) -> None:
    refused(daemon_on_lab.act(paused.name, verb), paused, "paused (user)")


def test_paused_power_off_by_force(paused: Machine, daemon_on_lab: Daemon) -> None:
    answer = daemon_on_lab.act(paused.name, "power_off", "?wait=600&force=true")
    changed(answer, "shut off")


def test_paused_power_on_resumes(paused: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(paused.name, "power_on"), "running")
    assert paused.boots == 1


def test_paused_reboot_takes_effect_when_resumed(paused: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(paused.name, "reboot"), "paused")
    changed(daemon_on_lab.act(paused.name, "power_on"), "running")
    paused.wait_for_boot(2)


def test_paused_reset_stays_paused(paused: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(paused.name, "force_reset"), "paused")
    changed(daemon_on_lab.act(paused.name, "power_on"), "running")
    paused.wait_for_boot(2)


@pytest.mark.parametrize(("verb", "state"), [("force_off", "shut off"), ("nmi", "paused")])
def test_paused_hears_the_hardware(
    paused: Machine, daemon_on_lab: Daemon, verb: str, state: str
) -> None:
    changed(daemon_on_lab.act(paused.name, verb), state)


def test_paused_power_cycle(paused: Machine, daemon_on_lab: Daemon) -> None:
    changed(daemon_on_lab.act(paused.name, "power_cycle"), "running")
    paused.wait_for_boot(2)


# Machines that crashed, sleep, or were stopped by an I/O error.


@pytest.fixture(params=["crashed (panicked)", "pmsuspended (unknown)", "paused (I/O error)"])
def stuck(request: pytest.FixtureRequest, lab: Laboratory) -> Iterator[Machine]:
    key = {"c": Key.PANIC, "p": Key.SLEEP}[request.param[0]]
    broken_disk = "I/O" in request.param
    machine = lab.define(f"stuck-{next(_numbers)}", failing_disk=broken_disk)
    machine.boot()
    machine.press(Key.WRITE if broken_disk else key)
    machine.wait_for_state(request.param)
    yield machine
    remove(machine)


def test_stuck_refuses_what_its_guest_should_do(stuck: Machine, daemon_on_lab: Daemon) -> None:
    state = stuck.state_and_reason()
    for verb in ("power_off", "cyclepower", "reboot"):
        if not (verb == "cyclepower" and state.startswith("crashed")):
            refused(daemon_on_lab.act(stuck.name, verb), stuck, state)
    changed(daemon_on_lab.act(stuck.name, "force_off"), "shut off")


@pytest.mark.parametrize("verb", ["power_on", "force_reset", "power_cycle"])
def test_stuck_comes_to_life(stuck: Machine, daemon_on_lab: Daemon, verb: str) -> None:
    changed(daemon_on_lab.act(stuck.name, verb), "running")
    # The guest has no waking vector: when it is woken it boots.
    stuck.wait_for_boot(2)


# Machines that are gone once they are off.


@pytest.fixture
def transient(lab: Laboratory) -> Machine:
    machine = lab.define(f"transient-{next(_numbers)}")
    xml = lab.file(f"{machine.uuid}.xml", machine.virsh("dumpxml", "--inactive").encode())
    machine.virsh("undefine")
    lab.virsh("create", str(xml))
    machine.wait_for_boot(1)
    return machine


@pytest.mark.parametrize("query", ["power_off?wait=30", "force_off"])
def test_transient_machine_can_be_switched_off(
    transient: Machine, daemon_on_lab: Daemon, query: str
) -> None:
    verb, _, parameters = query.partition("?")
    changed(daemon_on_lab.act(transient.name, verb, "?" + parameters), "shut off")
    assert daemon_on_lab.get(f"/service/{transient.name}").status == NOT_FOUND


def test_transient_machine_is_not_destroyed_to_be_started_again(
    transient: Machine, daemon_on_lab: Daemon
) -> None:
    refused(daemon_on_lab.act(transient.name, "power_cycle"), transient, "running (booted)")
    changed(daemon_on_lab.act(transient.name, "force_reset"), "running")
    transient.destroy()


# Each machine on its own.


def test_destroy_that_takes_long_delays_nobody_else(
    lab: Laboratory, machine: Machine, deaf: Machine, daemon_on_lab: Daemon
) -> None:
    machine.boot()
    number = machine.number()
    machine.freeze()
    with ThreadPoolExecutor(1) as other:
        destroying = other.submit(daemon_on_lab.act, machine.name, "force_off", timeout=90)
        given = destroy(number, graceful=True)
        until(lambda: given in daemon_on_lab.virsh_commands(), 30, "destroy")
        assert daemon_on_lab.status(deaf.name)["state"] == "running"
        changed(daemon_on_lab.act(deaf.name, "force_reset"), "running")
        changed(daemon_on_lab.act(deaf.name, "force_off"), "shut off")
        assert not destroying.done()
        # The next action on the same machine takes its turn.
        changed(daemon_on_lab.act(machine.name, "power_on", timeout=90), "running")
        changed(destroying.result(), "shut off")
    machine.wait_for_boot(2)
