"""Machines that go from one host to another while they run, each host with its own controller."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest

from mc.boot.backup import Backups
from mc.boot.definitions import Definitions
from mc.domain_xml import order
from mc.errors import ChangeLost
from mc.machine.machines import Machines
from tests.booting import (
    CONFLICT,
    OK,
    PATIENCE,
    boot_elements,
    get_boot,
    put_boot,
    remove,
    set_boot,
    wait_for_reboot_rule,
)
from tests.booting import machines as made_machines
from tests.daemon import Daemon
from tests.hypervisor import open_virsh
from tests.lab import Key, Laboratory, Machine, Nic, until

OFF, MIGRATED = "shut off", "shut off (migrated)"
# MiB, of which the guest touches next to nothing: seconds at the bandwidth of `slow`.
LARGE = 4096
_numbers = count(1)


@pytest.fixture(scope="module")
def source() -> Iterator[Laboratory]:
    with Laboratory() as lab:
        yield lab


@pytest.fixture(scope="module")
def target() -> Iterator[Laboratory]:
    with Laboratory() as lab:
        yield lab


@pytest.fixture(scope="module")
def here(source: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The controller of the source, which hears of reboots."""
    with controller(source, tmp_path_factory.mktemp("here")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def there(target: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The controller of the target, which hears of reboots."""
    with controller(target, tmp_path_factory.mktemp("there")) as daemon:
        yield daemon


@contextmanager
def controller(lab: Laboratory, folder: Path) -> Iterator[Daemon]:
    with (
        Daemon("--connect", lab.uri, "--backup-dir", str(folder / "backups")) as daemon,
        made_machines(lab) as define,
    ):
        wait_for_reboot_rule(daemon, define)
        yield daemon


@contextmanager
def defined(source: Laboratory, target: Laboratory, memory: int = 16) -> Iterator[Machine]:
    """A machine that runs on the source, which has booted from its disk."""
    machine = source.define(f"moves-{next(_numbers)}", add=[Nic()], memory=memory)
    try:
        machine.boot()
        yield machine
    finally:
        for lab in (source, target):
            remove(lab, on(lab, machine))


def on(lab: Laboratory, machine: Machine) -> Machine:
    """The same machine on another host."""
    run = lab.libvirtd.run_folder
    return Machine(lab.virsh, machine.name, machine.uuid, machine.banner, machine.disk, run)


def migrate(machine: Machine, target: Laboratory, *options: str) -> None:
    """To the target; its disk is shared, as the two hosts are one."""
    to = (target.uri, "--live", "--migrateuri", "tcp://127.0.0.1", "--unsafe")
    machine.virsh("migrate", *to, *options)


MOVED = ("--persistent", "--undefinesource")


def test_mark_for_one_boot_goes_along(
    source: Laboratory, target: Laboratory, here: Daemon, there: Daemon
) -> None:
    with defined(source, target) as machine:
        first = machine.xml()
        set_boot(here, machine, "pxe", once=True)
        migrate(machine, target, *MOVED)
        moved = on(target, machine)
        assert get_boot(there, moved)["once"] == "pxe"
        moved.press(Key.REBOOT)
        moved.wait_for_reboot_into("disk", "network")
        assert get_boot(there, moved)["running_once"] == "pxe"
        moved.press(Key.REBOOT)
        moved.wait_for_reboot_into("disk", "network", "disk")
        assert get_boot(there, moved)["running_once"] is None
        assert_by_its_order(moved, first)
        assert machine.uuid not in source.virsh("list", "--all", "--uuid")


def test_order_goes_along(
    source: Laboratory, target: Laboratory, here: Daemon, there: Daemon
) -> None:
    with defined(source, target) as machine:
        set_boot(here, machine, "pxe")
        migrate(machine, target, *MOVED)
        moved = on(target, machine)
        assert (get_boot(there, moved)["pending"], moved.booted) == (True, ["disk"])
        moved.press(Key.REBOOT)
        moved.wait_for_reboot_into("disk", "network")


def test_one_time_boot_that_runs_ends_on_the_target(
    source: Laboratory, target: Laboratory, here: Daemon, there: Daemon
) -> None:
    with defined(source, target) as machine:
        machine.destroy()
        first = machine.xml()
        running_once(here, machine)
        migrate(machine, target, *MOVED)
        moved = on(target, machine)
        assert get_boot(there, moved)["running_once"] == "pxe"
        moved.press(Key.REBOOT)
        moved.wait_for_reboot_into("disk", "network", "disk")
        assert_by_its_order(moved, first)


def running_once(daemon: Daemon, machine: Machine) -> None:
    """The machine, which was off, is in a one-time boot from the network."""
    answer = daemon.act(machine.name, "pxeboot", "?once=true")
    assert answer.status == OK, answer
    machine.wait_for_boots("disk", "network")


def assert_by_its_order(machine: Machine, first: str) -> None:
    """Nothing is left of a one-time boot. libvirt itself has moved other things around."""
    until(lambda: order.is_ours(machine.xml()), PATIENCE, "end of the note", lambda ours: not ours)
    assert boot_elements(machine.xml()) == boot_elements(first)


def test_definition_that_stays_behind_starts_nothing(
    source: Laboratory, target: Laboratory, here: Daemon, there: Daemon
) -> None:
    with defined(source, target) as machine:
        machine.destroy()
        running_once(here, machine)
        migrate(machine, target, "--persistent")
        moved = on(target, machine)
        machine.wait_for_state(MIGRATED)
        moved.press(Key.REBOOT)
        moved.wait_for_reboot_into("disk", "network", "disk")
        status = get_boot(here, machine)
        assert (status["ended_once"], status["running_once"]) == (None, None)
        # A controller that comes later looks back.
        with Daemon("--connect", source.uri, "--log-level=debug") as later:
            looks = f"domstate --domain {machine.uuid} --reason"
            until(later.virsh_commands, PATIENCE, "look back", lambda given: looks in given)
            assert machine.name not in "".join(
                line for line in later.log().split("\n") if " WARNING " in line
            )
        assert machine.name not in "".join(
            line for line in here.log().split("\n") if "one-time boot (" in line
        )
        assert machine.state_and_reason() == MIGRATED


@contextmanager
def migrating(machine: Machine, source: Laboratory, target: Laboratory) -> Iterator[Future[None]]:
    """A migration under way, for some seconds."""
    with ThreadPoolExecutor(1) as other:
        future = other.submit(migrate, machine, target, *MOVED, "--bandwidth", "1")
        until(
            lambda: machine.virsh("domjobinfo"),
            PATIENCE,
            "migration",
            lambda job: "Outgoing migration" in job,
        )
        until(
            lambda: target.virsh("list", "--all", "--uuid"),
            PATIENCE,
            "machine on the target",
            lambda uuids: machine.uuid in uuids,
        )
        yield future
        future.result(PATIENCE)


VERBS = (
    *("force_off", "power_off", "power_cycle", "force_reset", "reboot", "nmi"),
    *("pxeboot", "pxeboot?once=true", "diskboot", "power_off?wait=9&force=true"),
)


def test_machine_on_its_way_is_not_changed(
    source: Laboratory, target: Laboratory, here: Daemon, there: Daemon
) -> None:
    with defined(source, target, LARGE) as machine:
        first = machine.xml()
        with migrating(machine, source, target) as migration:
            for daemon in (here, there):
                given = len(daemon.virsh_commands())
                put = [put_boot(daemon, machine, device="pxe", once=once) for once in (True, False)]
                put.append(put_boot(daemon, machine, device="none"))
                acts = [verb.partition("?") for verb in VERBS]
                if daemon is there:
                    acts.append(("power_on", "", ""))
                put += [daemon.act(machine.name, verb, f"?{query}") for verb, _, query in acts]
                assert {answer.status for answer in put} == {CONFLICT}, put
                assert {answer.json["uuid"] for answer in put} == {machine.uuid}
                assert all("is being migrated" in answer.json["detail"] for answer in put), put
                words = {one.split(" ")[0] for one in daemon.virsh_commands()[given:]}
                assert not words & {"define", "destroy", "shutdown", "reset", "create", "resume"}
                assert daemon.get(f"/service/{machine.name}").status == OK
                assert get_boot(daemon, machine)["once"] is None
            assert here.status(machine.name)["state"] == "running"
            assert here.act(machine.name, "power_on").json["changed"] is False
            assert not migration.done()
        moved = on(target, machine)
        assert moved.state() == "running"
        assert_by_its_order(moved, first)
        assert moved.boots == 1


def test_reboot_on_its_way_is_left_to_the_target(
    source: Laboratory, target: Laboratory, here: Daemon, there: Daemon
) -> None:
    with defined(source, target, LARGE) as machine:
        set_boot(here, machine, "pxe", once=True)
        number = machine.number()
        with migrating(machine, source, target) as migration:

            def refused() -> bool:
                # The other end of the line is held by both hosts: either may get the key.
                machine.press(Key.REBOOT)
                return (
                    f"reboot of {machine.name!r} not followed: the machine is being" in here.log()
                )

            until(refused, PATIENCE, "reboot that is not followed")
            assert not migration.done()
        moved = on(target, machine)
        assert not [one for one in here.virsh_commands() if f"{number:0256}" in one]
        moved.wait_for_boot(2)
        moved.press(Key.REBOOT)
        until(lambda: moved.booted[-1], PATIENCE, "network boot", lambda boot: boot == "network")


@pytest.mark.parametrize("options", [MOVED, ("--persistent",)])
def test_change_that_came_too_late_is_not_said_to_have_been_made(
    source: Laboratory, target: Laboratory, options: tuple[str, ...], tmp_path: Path
) -> None:
    with defined(source, target) as machine, closing(open_virsh(source.uri)) as virsh:
        found = Machines(virsh).find(machine.uuid)
        definitions = Definitions(virsh, Backups(tmp_path, 10))
        old = definitions.read(machine.uuid)
        new = order.with_once(old, "pxe")
        migrate(machine, target, *options)
        done: list[str] = []
        # What the source still says of the machine that it runs was read before.
        with pytest.raises(ChangeLost) as caught:
            definitions.define_on(found, new, done)
        assert caught.value.unknown
        assert done == ["define"]


def test_machine_that_went_off_by_itself_is_changed_where_it_is(
    source: Laboratory, target: Laboratory, tmp_path: Path
) -> None:
    with defined(source, target) as machine, closing(open_virsh(source.uri)) as virsh:
        found = Machines(virsh).find(machine.uuid)
        definitions = Definitions(virsh, Backups(tmp_path, 10))
        new = order.with_once(definitions.read(machine.uuid), "pxe")
        machine.destroy()
        definitions.define_on(found, new, [])
        assert machine.xml() == new
