"""Listing machines, and finding the one that is meant."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast
from urllib.parse import quote

import pytest

from mc.errors import NoSuchMachine, Transient, Unreachable
from mc.machine.machines import STATES, Known, Machine, Machines, Status
from mc.web.routes import routes
from mc.web.service.controller import Controller
from tests.booting import machines as made_machines
from tests.booting import remove, wait_for_reboot_rule
from tests.daemon import Answer, Daemon
from tests.hypervisor import STATES as NUMBERS
from tests.hypervisor import hypervisor, open_virsh, uuid_of
from tests.lab import Key, Laboratory

ON = [state for state in NUMBERS if state != "shut off"]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A machine in each state, called by its state; libvirt numbers those that are on from 1."""
    file = tmp_path_factory.mktemp("machines") / "node.xml"
    with closing(open_virsh(hypervisor(file, zip(NUMBERS, NUMBERS, strict=True)))) as virsh:
        yield Machines(virsh)


def uuid_in(state: str) -> str:
    return uuid_of(NUMBERS[state] - 1)


def test_list_is_sorted_by_name(machines: Machines) -> None:
    assert [machine.name for machine in machines.list_all()] == sorted(NUMBERS)


def test_list_tells_of_every_machine_what_finding_it_tells(machines: Machines) -> None:
    found = [machines.find(name) for name in sorted(NUMBERS)]
    assert machines.list_all() == [Machine(one.id, one.name, one.uuid, one.state) for one in found]


def test_machine_of_a_file_is_persistent(machines: Machines) -> None:
    assert machines.find("running").persistent


@pytest.mark.parametrize("state", NUMBERS)
def test_machine_in_every_state_is_found(machines: Machines, state: str) -> None:
    machine = machines.find(state)
    assert (machine.name, machine.uuid, machine.state) == (state, uuid_in(state), state)


@pytest.mark.parametrize("state", NUMBERS)
def test_status_of_every_state(machines: Machines, state: str) -> None:
    assert machines.status(state) == Status(state, "unknown")


def test_machine_that_is_off_has_no_number(machines: Machines) -> None:
    assert machines.find("shut off").id is None


def test_machines_that_are_on_have_numbers(machines: Machines) -> None:
    assert sorted(machines.find(state).id or 0 for state in ON) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("state", STATES)
def test_power_is_off_only_when_shut_off(state: str) -> None:
    power = "off" if state == "shut off" else "on"
    assert Machine(None, "x", uuid_of(0), state).power == power
    assert Status(state, "unknown").power == power


def test_words_of_states_stand_at_their_numbers() -> None:
    assert {word: STATES.index(word) for word in NUMBERS} == NUMBERS


UUID = uuid_in("paused")


@pytest.mark.parametrize(
    "reference",
    [
        *(UUID, UUID.upper(), UUID.capitalize(), UUID.replace("-", "")),
        *(UUID.replace("-", "").upper(), UUID.replace("-", "", 2)),
    ],
)
def test_machine_is_found_by_its_uuid_in_any_form(machines: Machines, reference: str) -> None:
    assert machines.find(reference).name == "paused"
    assert machines.status(reference).state == "paused"


@pytest.mark.parametrize(
    "reference",
    [
        *("nobody", "Paused", "paused ", " paused", "pause", "paused\0", "paused\n", "paused/"),
        *("", "/", "\n", "\0", ".", "..", " ", "\t", "*", "%", "'", "--help", "ü", "\udcff"),
        *("1", "2", "0", "-1", "+1", " 1", "\t1", "01", "0x1", "1e0", "9" * 40, "\u0661"),
        *(uuid_of(99), uuid_of(99).replace("-", ""), UUID[:-1], f"{UUID}0", f"{{{UUID}}}"),
        *("x" * 200, "x" * 4096, "x" * 10_240, "'" * 10_240, "'" * 4096, "ü" * 4096, "🖥" * 4096),
        *(
            "error: Disconnected from qemu:///system due to end of file",
            "\x01\udca3destroy paused #",
        ),
    ],
)
def test_what_no_machine_is_called_finds_none(machines: Machines, reference: str) -> None:
    with pytest.raises(NoSuchMachine) as caught:
        machines.find(reference)
    assert caught.value.reference == reference
    with pytest.raises(NoSuchMachine):
        machines.status(reference)
    assert machines.status("paused").state == "paused"


def test_hypervisor_without_machines_has_none(tmp_path: Path) -> None:
    with closing(open_virsh(hypervisor(tmp_path / "node.xml", []))) as virsh:
        assert Machines(virsh).list_all() == []
        with pytest.raises(NoSuchMachine):
            Machines(virsh).find("x")


def test_libvirt_that_is_away_is_not_a_missing_machine() -> None:
    with closing(open_virsh("qemu+unix:///session?socket=/nonexistent/sock")) as virsh:
        for ask in (Machines(virsh).find, Machines(virsh).status):
            for reference in ("x", "5", UUID):
                with pytest.raises(Unreachable):
                    ask(reference)
        with pytest.raises(Unreachable):
            Machines(virsh).list_all()


def test_machine_that_is_called_by_a_number_beats_the_machine_of_that_number(
    tmp_path: Path,
) -> None:
    uri = hypervisor(tmp_path / "node.xml", [("2", "running"), ("1", "paused"), ("x", "crashed")])
    with closing(open_virsh(uri)) as virsh:
        machines = Machines(virsh)
        assert [machines.find(name).name for name in ("1", "2")] == ["1", "2"]
        assert [machines.status(name).state for name in ("1", "2")] == ["paused", "running"]
        with pytest.raises(NoSuchMachine):
            machines.find("3")


def test_thousand_machines(tmp_path: Path) -> None:
    expected = {f"vm {number}": list(NUMBERS)[number % len(NUMBERS)] for number in range(1000)}
    with closing(open_virsh(hypervisor(tmp_path / "node.xml", expected.items()))) as virsh:
        machines = Machines(virsh)
        listed = machines.list_all()
        assert machines.find("vm 999").uuid == uuid_of(999)
    assert [machine.name for machine in listed] == sorted(expected)
    assert {machine.name: machine.state for machine in listed} == expected
    assert {machine.uuid for machine in listed} == {uuid_of(number) for number in range(1000)}


# Machines of which the patterns leave out every second one. The names of `LIKE` are the UUIDs of
# a machine that is left out and of none.
PATTERNS = ["lab-*", "ci-[0-9]*", uuid_of(1), "7"]
LIKE = [uuid_of(1), uuid_of(77)]
SHOWN = ["lab-1", "lab-", "ci-7x", "7", LIKE[0]]
LEFT_OUT = ["Lab-1", "web", "ci-x", "5", LIKE[1]]
NODE = [name for pair in zip(SHOWN, LEFT_OUT, strict=True) for name in pair]
# This one is left out as well, and is called by a form of the UUID of one that is not.
NODE.append(uuid_of(0).replace("-", ""))


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    file = tmp_path_factory.mktemp("some") / "node.xml"
    with closing(open_virsh(hypervisor(file, [(name, "running") for name in NODE]))) as virsh:
        yield Machines(virsh, PATTERNS)


def forms(uuid: str) -> list[str]:
    return [uuid, uuid.upper(), uuid.replace("-", ""), uuid.replace("-", "").upper()]


def test_list_has_only_what_matches(some: Machines) -> None:
    assert [machine.name for machine in some.list_all()] == sorted(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_machine_that_matches_is_found_by_name_and_uuid(some: Machines, name: str) -> None:
    uuid = uuid_of(NODE.index(name))
    for reference in (name, *forms(uuid)):
        assert (some.find(reference).name, some.find(reference).uuid) == (name, uuid)
        assert some.status(reference).state == "running"


@pytest.mark.parametrize(
    "reference",
    [
        *LEFT_OUT,
        *(
            form
            for name in LEFT_OUT
            if name != "Lab-1"
            for form in forms(uuid_of(NODE.index(name)))
        ),
        # Its UUID is also the name of a machine that matches: only the other forms are not.
        *forms(uuid_of(1))[1:],
        *(f" {uuid_of(3)}", "1", "2", "3", "LAB-1", "lab", "xlab-1", "ci-", "77", *forms(LIKE[1])),
    ],
)
def test_machine_that_is_left_out_does_not_exist(some: Machines, reference: str) -> None:
    for ask in (some.find, some.status):
        with pytest.raises(NoSuchMachine) as caught:
            ask(reference)
        assert str(caught.value) == f"libvirt has no machine {reference!r}"


@pytest.mark.parametrize("name", [*NODE, "", "lab-\n", "lab-\udcff", "lab-/"])
def test_patterns_are_fnmatchs(some: Machines, name: str) -> None:
    assert some.included(name) == (name in SHOWN or name.startswith("lab-"))


@pytest.mark.parametrize("patterns", [(), ("*",), ("a", "*b*", "running")])
def test_status_by_name_is_one_command(
    machines: Machines,
    patterns: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    some = Machines(machines._virsh, patterns)
    with caplog.at_level(logging.DEBUG, "mc.virsh.commands"):
        some.status("running")
    assert [line.split()[3] for line in caplog.messages] == ["domstate"]


def given(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The virsh commands given since this was asked last."""
    words = [line.split()[3] for line in caplog.messages]
    caplog.clear()
    return words


def test_machine_that_was_seen_is_found_without_a_list(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = Machines(machines._virsh)
    caplog.set_level(logging.DEBUG, "mc.virsh.commands")
    fresh.find("running")
    assert given(caplog) == ["domuuid", "domid", "domstats"]
    fresh.find("running")
    fresh.find(uuid_in("running"))
    assert given(caplog) == ["domid", "domstats"] * 2
    fresh.find("shut off")
    assert given(caplog) == ["domuuid", "domid", "domname"]
    fresh.find("shut off")
    fresh.find(uuid_in("shut off"))
    assert given(caplog) == ["domid", "domname"] * 2
    assert fresh.expected("running").uuid == uuid_in("running")
    assert fresh.expected(uuid_in("running").upper()) == Known("running", uuid_in("running"))
    assert given(caplog) == []
    Machines(machines._virsh).expected("running")
    assert given(caplog) == ["domuuid"]


def test_list_tells_where_to_look_for_names_that_virsh_takes_for_something_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["x", "2", uuid_of(5).replace("-", "")]
    uri = hypervisor(tmp_path / "node.xml", [(name, "running") for name in names])
    with closing(open_virsh(uri)) as virsh:
        machines = Machines(virsh)
        machines.list_all()
        caplog.set_level(logging.DEBUG, "mc.virsh.commands")
        for number, name in enumerate(names):
            assert machines.find(name).uuid == uuid_of(number)
            assert machines.status(name).state == "running"
        assert "list" not in given(caplog)


def test_machine_called_by_the_uuid_that_another_had(lab: Laboratory) -> None:
    """virsh takes a UUID that no machine has for a name."""
    gone = lab.define("gone")
    with closing(open_virsh(lab.uri)) as virsh:
        machines = Machines(virsh)
        assert machines.find("gone").uuid == gone.uuid
        remove(lab, gone)
        called = lab.define(gone.uuid)
        for state in ("shut off", "running"):
            with pytest.raises(NoSuchMachine):
                machines.find("gone")
            assert machines.find(gone.uuid).uuid == called.uuid
            assert machines.status(gone.uuid).state == state
            if state == "shut off":
                called.start()
    remove(lab, called)


def test_name_that_goes_to_another_machine_is_the_other_ones(lab: Laboratory) -> None:
    first, second = lab.define("in-use"), lab.define("spare")
    with closing(open_virsh(lab.uri)) as virsh:
        machines = Machines(virsh)
        assert machines.find("in-use").uuid == first.uuid
        first.virsh("domrename", "retired")
        with pytest.raises(NoSuchMachine):
            machines.find("in-use")
        second.virsh("domrename", "in-use")
        assert machines.find("in-use").uuid == second.uuid
        assert machines.find("retired").uuid == first.uuid
        second.start()
        assert machines.find("in-use").uuid == second.uuid
        lab.virsh("domrename", first.uuid, "in-use-no-more")
        with pytest.raises(NoSuchMachine):
            machines.find("retired")
    for machine in (first, second):
        remove(lab, machine)


def test_found_machine_has_its_number_reason_and_permanence(lab: Laboratory) -> None:
    machine = lab.define("whole")
    with closing(open_virsh(lab.uri)) as virsh:
        machines = Machines(virsh)
        off = machines.find("whole")
        assert (off.id, off.state, off.persistent) == (None, "shut off", True)
        assert machines.number(machine.uuid) is None
        assert machines.lasting_state(machine.uuid) == "shut off"
        machine.boot()
        for command, state, reason in (
            ("suspend", "paused", "user"),
            ("resume", "running", "unpaused"),
        ):
            machine.virsh(command)
            on = machines.find("whole")
            assert (on.id, on.persistent) == (machine.number(), True)
            assert (on.state, on.reason) == (state, reason)
            assert machines.status("whole") == Status(state, reason)
        xml = lab.file("whole.xml", machine.xml().encode())
        machine.virsh("undefine")
        transient = machines.find("whole")
        assert (transient.id, transient.persistent) == (machine.number(), False)
        assert (transient.state, transient.reason) == ("running", "unpaused")
        with pytest.raises(Transient):
            machines.lasting_state(machine.uuid)
        lab.virsh("define", str(xml))
        assert machines.find("whole").persistent
        assert machines.lasting_state(machine.uuid) == "running"
        remove(lab, machine)
        for ask in (machines.number, machines.lasting_state):
            with pytest.raises(NoSuchMachine):
                ask(machine.uuid)


def test_machine_that_is_left_out_is_not_asked_for(
    some: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "mc.virsh.commands"), pytest.raises(NoSuchMachine):
        some.status("web")
    assert not caplog.messages


def test_renamed_machine_comes_and_goes(lab: Laboratory) -> None:
    machine = lab.define("shown-for-now")
    with closing(open_virsh(lab.uri)) as virsh:
        some = Machines(virsh, ["shown-*"])
        assert some.status(machine.uuid).state == "shut off"
        machine.virsh("domrename", "hidden-by-now")
        asked: list[Callable[[str], object]] = [some.find, some.status]
        for ask in asked:
            for reference in ("shown-for-now", "hidden-by-now", machine.uuid):
                with pytest.raises(NoSuchMachine):
                    ask(reference)
        lab.virsh("domrename", machine.uuid, "shown-again")
        assert some.find(machine.uuid).name == some.find("shown-again").name == "shown-again"
    lab.virsh("undefine", machine.uuid)


def settings(folder: Path, patterns: list[str]) -> str:
    """A file with settings that let only some machines exist."""
    file = folder / "patterns.conf"
    file.write_text(f"[global]\nlibvirt.machines = {patterns!r}\n")
    return str(file)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    uri = hypervisor(folder / "node.xml", [(name, "running") for name in NODE])
    with Daemon("--connect", uri, "--config", settings(folder, PATTERNS)) as daemon:
        yield daemon


URLS = [
    (method, route.template)
    for route in routes(cast(Controller, None))
    for method in route.resource.methods()
    if "{machine}" in route.template and method != "OPTIONS"
]


def call(daemon: Daemon, method: str, template: str, machine: str) -> Answer:
    path = template.replace("{machine}", quote(machine, safe="")).replace("{verb}", "reset")
    body = b'{"device": "disk"}' if method == "PUT" else None
    return daemon.request(method, path, body)


def test_daemon_lists_only_what_matches(daemon: Daemon) -> None:
    listed = daemon.get("/service/machines").json
    assert [machine["name"] for machine in listed] == sorted(SHOWN)


@pytest.mark.parametrize(("method", "template"), URLS)
def test_url_of_a_machine_that_is_left_out(daemon: Daemon, method: str, template: str) -> None:
    """404, as for a machine that is not there; and nothing is told to libvirt about it."""
    given = len(daemon.virsh_commands())
    uuid = uuid_of(NODE.index("web"))
    strangers = {"web": "nobody", uuid: uuid_of(99), uuid.upper(): uuid_of(99).upper()}
    for machine, stranger in strangers.items():
        answer = call(daemon, method, template, machine)
        expected = call(daemon, method, template, stranger)
        assert (answer.status, expected.status) == (404, 404)
        assert answer.body == expected.body.replace(stranger.encode(), machine.encode())
    words = {command.split(" ", 1)[0] for command in daemon.virsh_commands()[given:]}
    assert words <= {"domid", "domname", "domstate", "domstats", "domuuid", "list"}


def test_machine_that_matches_is_powered(daemon: Daemon) -> None:
    assert daemon.act("lab-1", "power_cycle").json["changed"]
    assert daemon.act(uuid_of(NODE.index("7")).upper(), "power_cycle").json["machine"] == "7"


def test_reboot_of_a_machine_that_is_left_out_is_left_alone(
    lab: Laboratory, tmp_path: Path
) -> None:
    left_out = lab.define("left-out")
    patterns = settings(tmp_path, ["boot-*"])
    backups = str(tmp_path / "backups")
    with (
        Daemon("--connect", lab.uri, "--config", patterns, "--backup-dir", backups) as daemon,
        made_machines(lab) as define,
    ):
        wait_for_reboot_rule(daemon, define)
        left_out.boot()
        left_out.press(Key.REBOOT)
        left_out.wait_for_boot(2)
        # When the reboots of another one are followed, that of this one has been heard.
        wait_for_reboot_rule(daemon, define)
        assert left_out.name not in daemon.log()
        assert left_out.uuid not in daemon.log()
    remove(lab, left_out)
