"""The methods of `Virsh` on the embedded test hypervisor: answers, sessions, and the log."""

import fcntl
import logging
import os
import shlex
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mc.errors import ConnectionLost, NoAnswer, Refused, Stopping, Unavailable, Unreachable
from mc.virsh import FOR_ONE_OF_MANY, Layout, Listed, Virsh
from mc.virsh.commands import Stats
from mc.virsh.pool import SessionCounts
from tests.daemon import destroy
from tests.gate import Keeper
from tests.hypervisor import FOR_THE_ONLY_HOST, STATES, hypervisor, number_of, open_virsh, uuid_of
from tests.lab import Laboratory, processes
from tests.lab.waiting import until

NAMES = ["web", "a b", "it's", 'a"b', "--help", "x;y #", "ü", "a\u2028b", "$HOME %s \\"]


def children() -> set[int]:
    """Ids of the processes that this one has started and not yet reaped."""
    files = Path("/proc/self/task").glob("*/children")
    return {int(pid) for file in files for pid in file.read_text().split()}


@pytest.fixture
def before() -> set[int]:
    return children()


@pytest.fixture
def virsh(before: set[int]) -> Iterator[Virsh]:
    """On libvirt's default test hypervisor, whose only machine, `test`, runs."""
    with closing(open_virsh("test:///default")) as virsh:
        yield virsh


@pytest.fixture
def states(tmp_path: Path) -> Iterator[Virsh]:
    """On a hypervisor that has a machine in each state, called by its state."""
    with closing(
        open_virsh(hypervisor(tmp_path / "node.xml", zip(STATES, STATES, strict=True)))
    ) as virsh:
        yield virsh


def only_child(before: set[int]) -> int:
    (pid,) = children() - before
    return pid


def unread(pid: int) -> int:
    """How many bytes wait in a process's standard input."""
    with Path(f"/proc/{pid}/fd/0").open("rb") as pipe:
        answer = fcntl.ioctl(pipe, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


def kill_during(pid: int, command: Callable[[], object]) -> object:
    """What a command returns whose virsh is killed meanwhile."""
    processes.freeze(pid)
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(command)
        until(lambda: unread(pid), 30, "command in the pipe")
        os.kill(pid, signal.SIGKILL)
        return future.result(30)


def test_one_session_serves_everything(virsh: Virsh, before: set[int]) -> None:
    """The state of the embedded hypervisor lives in its connection."""
    virsh.destroy(number_of(virsh, "test"))
    assert virsh.domstate("test") == ("shut off", "destroyed")
    assert virsh.domstats() == {"test": 5}
    assert virsh.dominfo("test")["State"] == "shut off"
    assert [one.id for one in virsh.list_all()] == [None]
    virsh.start("test")
    assert virsh.domstate("test") == ("running", "booted")
    only_child(before)


def test_the_one_session_serves_threads_in_turn(virsh: Virsh, before: set[int]) -> None:
    virsh.domstate("test")
    pid = only_child(before)
    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(lambda _: virsh.domstate("test"), range(200)))
    assert answers == {("running", "unknown")}
    assert only_child(before) == pid


@pytest.mark.parametrize(
    "name",
    ["nobody", "", "--help", "error: x", "error: Disconnected from x", "\udca3start test #"],
)
def test_refused_command_leaves_the_one_session_alone(virsh: Virsh, name: str) -> None:
    virsh.destroy(number_of(virsh, "test"))
    with pytest.raises(Refused):
        virsh.domstate(name)
    with pytest.raises(Refused):
        virsh.start(name)
    assert virsh.domstate("test") == ("shut off", "destroyed")


def test_close_ends_every_virsh(before: set[int]) -> None:
    virsh = open_virsh("test:///default")
    virsh.domstate("test")
    virsh.close()
    assert children() == before
    with pytest.raises(Stopping):
        virsh.domstate("test")


def test_nothing_is_started_before_it_is_needed(before: set[int]) -> None:
    with closing(open_virsh("test:///default")):
        assert children() == before


def test_read_whose_connection_is_lost_is_repeated(virsh: Virsh, before: set[int]) -> None:
    virsh.domstate("test")
    pid = only_child(before)
    assert kill_during(pid, lambda: virsh.domstate("test")) == ("running", "unknown")
    assert only_child(before) != pid


def test_read_after_its_virsh_was_killed_goes_to_another(virsh: Virsh, before: set[int]) -> None:
    virsh.domstate("test")
    os.kill(only_child(before), signal.SIGKILL)
    assert virsh.domstate("test") == ("running", "unknown")


def test_action_whose_connection_is_lost_is_not_repeated(
    virsh: Virsh, before: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.commands")
    virsh.domstate("test")
    with pytest.raises(ConnectionLost) as caught:
        kill_during(only_child(before), lambda: virsh.destroy(1))
    assert caught.value.unknown
    assert sum("destroy" in message for message in caplog.messages) == 1
    assert virsh.domstate("test") == ("running", "unknown")


def test_read_has_its_own_deadline(before: set[int]) -> None:
    with closing(open_virsh("test:///default", read=0.5, act=3600)) as virsh:
        virsh.domstate("test")
        processes.freeze(only_child(before))
        with pytest.raises(NoAnswer, match="did not answer 'domstate") as caught:
            virsh.domstate("test")
        assert not caught.value.unknown


def test_action_has_its_own_deadline(before: set[int]) -> None:
    with closing(open_virsh("test:///default", read=3600, act=0.5)) as virsh:
        virsh.domstate("test")
        processes.freeze(only_child(before))
        with pytest.raises(NoAnswer, match=f"did not answer '{destroy(1)}' in time") as caught:
            virsh.destroy(1)
        assert caught.value.unknown


def test_unreachable_libvirt_says_so_for_reads_and_actions(before: set[int]) -> None:
    with closing(open_virsh("qemu+unix:///session?socket=/nonexistent/sock")) as virsh:
        for command in (virsh.list_all, virsh.domstats, lambda: virsh.start("test")):
            with pytest.raises(Unreachable, match="Failed to connect socket to '/nonexistent/"):
                command()
    assert children() == before


def test_list_has_all_machines(states: Virsh) -> None:
    ids = {one.name: one.id for one in states.list_all()}
    assert states.list_all() == [
        *(Listed(uuid_of(STATES[name] - 1), ids[name], name) for name in ids)
    ]
    assert set(ids) == set(STATES)
    assert [name for name, number in ids.items() if number is None] == ["shut off"]
    assert sorted(number for number in ids.values() if number) == [1, 2, 3, 4, 5, 6]


def test_domstats_has_the_numbers_of_all_states(states: Virsh) -> None:
    assert states.domstats() == STATES


@pytest.mark.parametrize("state", STATES)
def test_domstate_has_the_word_for_every_state(states: Virsh, state: str) -> None:
    assert states.domstate(state) == (state, "unknown")


@pytest.mark.parametrize("state", STATES)
def test_dominfo_has_the_word_for_every_state(states: Virsh, state: str) -> None:
    info = states.dominfo(state)
    assert (info["Name"], info["State"]) == (state, state)
    assert info["UUID"] == uuid_of(STATES[state] - 1)
    assert (info["Id"] == "-") == (state == "shut off")


def test_hypervisor_without_machines_has_none(tmp_path: Path) -> None:
    with closing(open_virsh(hypervisor(tmp_path / "node.xml", []))) as virsh:
        assert (virsh.list_all(), virsh.domstats()) == ([], {})


@pytest.mark.parametrize(
    ("method", "before_it", "after_it"),
    [
        ("start", "shut off", ("running", "booted")),
        ("resume", "paused", ("running", "unpaused")),
        ("shutdown", "running", ("shut off", "shutdown")),
        ("reboot", "running", ("running", "booted")),
    ],
)
def test_action_does_what_its_name_says(
    states: Virsh, method: str, before_it: str, after_it: tuple[str, str]
) -> None:
    getattr(states, method)(uuid_of(STATES[before_it] - 1))
    assert states.domstate(before_it) == after_it


@pytest.mark.parametrize("state", ["running", "paused", "crashed"])
@pytest.mark.parametrize("graceful", [False, True])
def test_destroy_ends_the_run_of_its_number(states: Virsh, state: str, graceful: bool) -> None:
    states.destroy(number_of(states, state), graceful=graceful)
    assert states.domstate(state) == ("shut off", "destroyed")
    assert states.domstats() == STATES | {state: STATES["shut off"]}


@pytest.mark.parametrize("graceful", [False, True])
def test_destroy_ends_no_later_run_of_the_machine(states: Virsh, graceful: bool) -> None:
    ended = number_of(states, "running")
    states.destroy(ended)
    states.start(uuid_of(STATES["running"] - 1))
    assert number_of(states, "running") != ended
    with pytest.raises(Refused, match="failed to get domain"):
        states.destroy(ended, graceful=graceful)
    assert states.domstats() == STATES


@pytest.mark.parametrize("name", ["7", "007", f"{7:0255}"])
def test_machine_named_as_a_number_is_not_that_run(tmp_path: Path, name: str) -> None:
    """virsh looks for an id first, and then for a name."""
    with closing(open_virsh(hypervisor(tmp_path / "node.xml", [(name, "running")]))) as virsh:
        for graceful in (False, True):
            with pytest.raises(Refused, match="failed to get domain"):
                virsh.destroy(7, graceful=graceful)
        assert virsh.domstats() == {name: STATES["running"]}


def test_definition_beyond_libvirts_schema_is_taken(
    virsh: Virsh, caplog: pytest.LogCaptureFixture
) -> None:
    """Where libvirt takes it otherwise: machines have what its schema has no place for."""
    caplog.set_level(logging.DEBUG, "mc.virsh.commands")
    xml = virsh.dumpxml("test", inactive=True).replace("<os>", "<unheard-of/><os>")
    virsh.define(xml.replace("<vcpu placement='static'>2<", "<vcpu>1<"))
    assert "<vcpu placement='static'>1<" in virsh.dumpxml("test", inactive=True)
    virsh.destroy(number_of(virsh, "test"))
    virsh.create(xml)
    assert virsh.domstate("test") == ("running", "booted")
    given = [message.rpartition(" /dev/fd/")[0] for message in caplog.messages if "/dev" in message]
    assert given == [f"virsh -c test:///default {word} --file" for word in ("define", "create")]


def test_action_that_the_hypervisor_lacks_is_refused_in_its_words(states: Virsh) -> None:
    with pytest.raises(Refused, match="not supported by the connection driver"):
        states.dompmwakeup(uuid_of(STATES["pmsuspended"] - 1))


def test_one_machine_is_told_piece_by_piece(states: Virsh) -> None:
    for name, number in STATES.items():
        uuid = uuid_of(number - 1)
        assert (states.domuuid(name), states.domname(uuid)) == (uuid, name)
        assert (states.domid(uuid) is None) == (name == "shut off")
        assert states.domstats_of(uuid) == Stats(name, number, 0)
        assert states.domstats_if_persistent(uuid) == Stats(name, number, 0)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_told_as_it_is(tmp_path: Path, name: str) -> None:
    uri = hypervisor(tmp_path / "node.xml", [(name, "running")])
    with closing(open_virsh(uri)) as virsh:
        assert virsh.domuuid(name) == uuid_of(0)
        assert virsh.domname(uuid_of(0)) == name
        assert virsh.domstats_of(uuid_of(0)) == Stats(name, 1, 0)


@pytest.mark.parametrize(
    "method", ["domuuid", "domid", "domname", "domstats_of", "domstats_if_persistent"]
)
def test_piece_of_no_machine_is_refused(virsh: Virsh, method: str) -> None:
    with pytest.raises(Refused, match="failed to get domain"):
        getattr(virsh, method)("nobody")


def test_transient_machine_is_none_of_the_persistent_ones(virsh: Virsh) -> None:
    virsh.create(
        virsh.dumpxml("test")
        .replace(virsh.domuuid("test"), uuid_of(1))
        .replace("<name>test</name>", "<name>passing</name>")
    )
    assert virsh.domstats_of("passing") == Stats("passing", 1, 1)
    assert virsh.domstats_if_persistent("passing") is None


def test_action_in_the_wrong_state_is_refused_in_libvirts_words(states: Virsh) -> None:
    with pytest.raises(Refused, match="Domain is already active"):
        states.start(uuid_of(0))


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("start", "start --domain test"),
        ("resume", "resume --domain test"),
        ("dompmwakeup", "dompmwakeup --domain test"),
        ("shutdown", "shutdown --domain test"),
        ("reboot", "reboot --domain test"),
        ("reset", "reset --domain test"),
        ("inject_nmi", "inject-nmi --domain test"),
        ("domstate", "domstate --domain test --reason"),
        ("dominfo", "dominfo --domain test"),
        ("domuuid", "domuuid --domain test"),
        ("domid", "domid --domain test"),
        ("domstats_of", "domstats --state --nowait --domain test"),
        ("domstats_if_persistent", "domstats --state --nowait --list-persistent --domain test"),
        ("managedsave_dumpxml", "managedsave-dumpxml --domain test"),
    ],
)
def test_log_has_the_command_as_one_types_it(
    virsh: Virsh, caplog: pytest.LogCaptureFixture, method: str, line: str
) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.commands")
    try:
        getattr(virsh, method)("test")
    except Refused as error:
        assert error.command == line
    assert caplog.messages == [f"virsh -c test:///default {line}"]


@pytest.mark.parametrize("graceful", [False, True])
def test_log_has_the_destroy_as_one_types_it(
    virsh: Virsh, caplog: pytest.LogCaptureFixture, graceful: bool
) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.commands")
    virsh.destroy(1, graceful=graceful)
    with pytest.raises(Refused) as caught:
        virsh.destroy(1, graceful=graceful)
    assert caught.value.command == destroy(1, graceful=graceful)
    line = f"virsh -c test:///default {destroy(1, graceful=graceful)}"
    assert caplog.messages == [line, line]


@pytest.mark.parametrize("method", ["shutdown", "reboot"])
def test_mode_of_asking_is_passed_on(caplog: pytest.LogCaptureFixture, method: str) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.commands")
    # The test hypervisor takes no mode for a shutdown.
    with closing(open_virsh("test:///default", mode="acpi,agent")) as virsh, suppress(Refused):
        getattr(virsh, method)("test")
    assert caplog.messages == [f"virsh -c test:///default {method} --domain test --mode acpi,agent"]


def test_nothing_is_logged_above_debug(virsh: Virsh, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    virsh.destroy(number_of(virsh, "test"))
    assert caplog.messages == []


def typed(line: str) -> str:
    """What a command of the log answers an administrator who types it."""
    done = subprocess.run(shlex.split(line), capture_output=True, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize("name", NAMES)
def test_logged_read_typed_again_gives_the_same_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.commands")
    machines = [("other", "shut off"), (name, "paused")]
    uri = hypervisor(tmp_path / "it's a node.xml", machines)
    with closing(open_virsh(uri.replace(" ", "%20"))) as virsh:
        assert virsh.domstate(name) == ("paused", "unknown")
        assert virsh.dominfo(name)["UUID"] == uuid_of(1)
        assert {one.name for one in virsh.list_all()} == {"other", name}
        assert virsh.domstats() == {"other": 5, name: 3}
    domstate, dominfo, listing, domstats = map(typed, caplog.messages)
    assert domstate.strip() == "paused (unknown)"
    assert f" {name}\nUUID:           {uuid_of(1)}\n" in dominfo
    assert f"{uuid_of(1)} 1 {name}\n" in listing
    assert f"Domain: '{name}'\n  state.state=3\n" in domstats


def test_hostname_is_that_of_libvirts_host(virsh: Virsh) -> None:
    command = ["virsh", "-q", "-c", "test:///default", "hostname"]
    out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert virsh.hostname() == out.strip() != ""


def test_every_command_is_reported_with_its_time() -> None:
    seen: list[tuple[str, float]] = []
    start = time.perf_counter()
    with closing(
        open_virsh("test:///default", on_command=lambda *report: seen.append(report))
    ) as virsh:
        virsh.domstate("test")
        virsh.define(virsh.dumpxml("test", inactive=True))
        with pytest.raises(Refused):
            virsh.start("test")
    assert [command for command, _ in seen] == ["domstate", "dumpxml", "define", "start"]
    assert all(seconds > 0 for _, seconds in seen)
    assert sum(seconds for _, seconds in seen) < time.perf_counter() - start


def test_command_without_an_answer_is_reported(before: set[int]) -> None:
    seen: list[tuple[str, float]] = []
    with closing(
        open_virsh("test:///default", read=0.5, on_command=lambda *report: seen.append(report))
    ) as virsh:
        virsh.domstate("test")
        processes.freeze(only_child(before))
        with pytest.raises(NoAnswer):
            virsh.hostname()
    assert [command for command, _ in seen] == ["domstate", "hostname"]


def test_sessions_are_counted_by_what_they_are_for(virsh: Virsh, lab: Laboratory) -> None:
    virsh.domstate("test")
    assert virsh.sessions() == {"all": SessionCounts(open=1, started=1, lost=0)}
    with closing(open_virsh(lab.uri)) as other:
        other.list_all()
        assert {name: counts.open for name, counts in other.sessions().items()} == {
            "read": 0,
            "list": 1,
            "act": 0,
            "draw": 0,
        }


def test_one_of_many_hosts_has_few_sessions(lab: Laboratory) -> None:
    with closing(open_virsh(lab.uri, sessions=FOR_ONE_OF_MANY)) as virsh:
        virsh.hostname()
        virsh.list_all()
        with suppress(Refused):
            virsh.start("nobody")
        with suppress(Refused):
            virsh.screenshot("nobody")
        counts = {name: counts.open for name, counts in virsh.sessions().items()}
        assert counts == {"read": 1, "act": 1, "draw": 1}


def test_layout_for_one_of_many_hosts_stays_below_what_sshd_allows() -> None:
    pools = [FOR_ONE_OF_MANY.reading, FOR_ONE_OF_MANY.acting, FOR_ONE_OF_MANY.drawing]
    assert FOR_ONE_OF_MANY.listing is None
    assert sum(bounds.limit for bounds in pools if bounds) == 8


@pytest.mark.parametrize("layout", [FOR_THE_ONLY_HOST, FOR_ONE_OF_MANY])
def test_embedded_hypervisor_has_one_session_in_any_layout(
    layout: Layout, before: set[int]
) -> None:
    with closing(open_virsh("test:///default", sessions=layout)) as virsh:
        virsh.destroy(number_of(virsh, "test"))
        assert virsh.domstats() == {"test": 5}
        only_child(before)


def test_libvirt_daemon_is_asked_to_keep_alive(lab: Laboratory, before: set[int]) -> None:
    with closing(open_virsh(lab.uri)) as virsh:
        virsh.hostname()
        command = Path(f"/proc/{only_child(before)}/cmdline").read_bytes().split(b"\0")
        assert command[1:6] == [b"-q", b"-k", b"5", b"-K", b"2"]


def test_connect_opens_a_session_for_reading(virsh: Virsh, before: set[int]) -> None:
    virsh.connect()
    pid = only_child(before)
    virsh.connect()
    assert virsh.domstate("test") == ("running", "unknown")
    assert only_child(before) == pid


def test_connect_is_not_asked_for_by_a_request() -> None:
    gate = Keeper()
    gate.shut = True
    with closing(open_virsh("test:///default", gate=gate)) as virsh:
        virsh.connect()
        with pytest.raises(Unavailable, match="shut"):
            virsh.domstate("test")
        assert (gate.entered, gate.tries, gate.suspected) == (1, ["connected"], 0)


def test_connect_to_nowhere_is_unreachable() -> None:
    gate = Keeper()
    uri = "qemu+unix:///session?socket=/nonexistent/sock"
    with closing(open_virsh(uri, gate=gate)) as virsh:
        with pytest.raises(Unreachable, match="Failed to connect socket") as caught:
            virsh.connect()
        assert gate.tries == [str(caught.value)]


def test_connect_sees_that_an_open_session_does_not_answer(before: set[int]) -> None:
    with closing(open_virsh("test:///default", connect=0.5)) as virsh:
        virsh.connect()
        processes.freeze(only_child(before))
        with pytest.raises(NoAnswer, match="hostname"):
            virsh.connect()
        virsh.connect()
        only_child(before)


def test_connect_replaces_a_session_that_was_lost(virsh: Virsh, before: set[int]) -> None:
    virsh.connect()
    kill_during(only_child(before), virsh.connect)
    only_child(before)


@pytest.mark.parametrize("sessions", [FOR_THE_ONLY_HOST, FOR_ONE_OF_MANY])
def test_frozen_libvirt_meets_the_deadline_of_connecting(
    fragile: Laboratory, sessions: Layout
) -> None:
    gate = Keeper()
    with closing(open_virsh(fragile.uri, connect=0.5, gate=gate, sessions=sessions)) as virsh:
        fragile.libvirtd.freeze()
        try:
            with pytest.raises(NoAnswer):
                virsh.connect()
            with pytest.raises(NoAnswer):
                virsh.domstate("nobody")
            assert len(gate.tries) == 2
        finally:
            fragile.libvirtd.thaw()
        virsh.connect()
        assert gate.tries[2:] == ["connected"]


def test_read_without_an_answer_makes_its_host_suspect(before: set[int]) -> None:
    gate = Keeper()
    with closing(open_virsh("test:///default", read=0.5, act=0.5, gate=gate)) as virsh:
        virsh.domstate("test")
        processes.freeze(only_child(before))
        with pytest.raises(NoAnswer):
            virsh.domstate("test")
        assert (gate.suspected, gate.tries) == (1, ["connected"])
        virsh.domstate("test")
        processes.freeze(only_child(before))
        with pytest.raises(NoAnswer):
            virsh.start("test")
        assert gate.suspected == 1


def test_tidy_ends_what_is_idle_but_for_one_that_reads(lab: Laboratory, before: set[int]) -> None:
    with closing(open_virsh(lab.uri, sessions=replace(FOR_ONE_OF_MANY, idle_seconds=0))) as virsh:
        virsh.hostname()
        reader = only_child(before)
        with suppress(Refused):
            virsh.start("nobody")
        assert len(children() - before) == 2
        virsh.tidy()
        virsh.tidy()
        assert only_child(before) == reader
        assert {name: one.open for name, one in virsh.sessions().items()} == {
            "read": 1,
            "act": 0,
            "draw": 0,
        }


def test_tidy_spares_what_was_in_use_a_moment_ago(virsh: Virsh, before: set[int]) -> None:
    virsh.domstate("test")
    pid = only_child(before)
    for _ in range(3):
        virsh.tidy()
    assert only_child(before) == pid


def test_tidy_reaps_what_was_lost(virsh: Virsh, before: set[int]) -> None:
    virsh.domstate("test")
    pid = only_child(before)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    virsh.tidy()
    virsh.tidy()
    assert children() == before
    assert virsh.sessions()["all"] == SessionCounts(open=0, started=1, lost=1)


def test_many_hosts_are_told_to_end_before_one_is_waited_for(before: set[int]) -> None:
    hosts = [open_virsh("test:///default") for _ in range(8)]
    for virsh in hosts:
        virsh.connect()
    pids = children() - before
    assert len(pids) == 8
    for virsh in hosts:
        virsh.stop()
        with pytest.raises(Stopping):
            virsh.domstate("test")
    until(lambda: {processes.state(pid) for pid in pids}, 30, "end of all", {"Z"}.__eq__)
    for virsh in hosts:
        virsh.close()
    assert children() == before
