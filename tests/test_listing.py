"""The list of a libvirt, read by a caller who never waits."""

import os
import select
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mc.errors import ConnectionLost, NoAnswer, Refused, Stopping, Unavailable, Unreachable
from mc.virsh import FOR_ONE_OF_MANY, Listing, Virsh
from mc.virsh.pool import SessionCounts
from tests.gate import Keeper
from tests.hypervisor import STATES, hypervisor, open_virsh
from tests.lab import Laboratory, processes
from tests.test_commands import children, only_child

NOWHERE = "qemu+unix:///session?socket=/nonexistent/sock"
DEFAULT = "test:///default"


@pytest.fixture
def before() -> set[int]:
    return children()


@pytest.fixture
def gate() -> Keeper:
    return Keeper()


@pytest.fixture
def virsh(before: set[int], gate: Keeper) -> Iterator[Virsh]:
    with closing(open_virsh(DEFAULT, gate=gate)) as virsh:
        yield virsh
    assert children() == before


def sweep(*listings: Listing) -> None:
    """Have all of them over, in one loop over what there is to poll."""
    while left := [listing for listing in listings if not listing.proceed()]:
        poll = select.poll()
        for listing in left:
            for descriptor in listing.descriptors:
                poll.register(descriptor, select.POLLIN)
        assert poll.poll(30_000), "nobody says anything"


def listed(virsh: Virsh) -> dict[str, int]:
    """States by name, of machines that are in the list as well."""
    with closing(virsh.listing()) as listing:
        sweep(listing)
        machines, states = listing.result()
    assert {machine.name for machine in machines} == set(states)
    return states


def test_listing_is_what_the_two_commands_say(tmp_path: Path) -> None:
    names = [*STATES, "Domain: 'x'", "  state.state=1", " ", "\u2028", "error: x", "-"]
    states = [(name, "running" if name not in STATES else name) for name in names]
    with closing(open_virsh(hypervisor(tmp_path / "node.xml", states))) as virsh:
        with closing(virsh.listing()) as listing:
            sweep(listing)
            machines, numbers = listing.result()
        assert machines == virsh.list_all()
        assert numbers == virsh.domstats()
        assert set(numbers) == {machine.name for machine in machines} == set(names)


def test_listing_without_machines(tmp_path: Path) -> None:
    with closing(open_virsh(hypervisor(tmp_path / "node.xml", []))) as virsh:
        assert listed(virsh) == {}


def test_listing_of_a_thousand_machines(tmp_path: Path) -> None:
    machines = [(f"vm {number} {'x' * 150}", "paused") for number in range(1000)]
    with closing(open_virsh(hypervisor(tmp_path / "node.xml", machines))) as virsh:
        assert listed(virsh) == {name: 3 for name, _ in machines}


def test_many_are_listed_by_one_loop() -> None:
    with ExitStack() as stack:
        hosts = [stack.enter_context(closing(open_virsh(DEFAULT))) for _ in range(12)]
        for _ in range(2):
            listings = [stack.enter_context(closing(virsh.listing())) for virsh in hosts]
            sweep(*listings)
            assert [listing.result()[1] for listing in listings] == [{"test": 1}] * 12
        assert all(virsh.sessions()["all"].started == 1 for virsh in hosts)


def test_listing_connects_where_nobody_has(virsh: Virsh, gate: Keeper) -> None:
    assert listed(virsh) == {"test": 1}
    assert (gate.entered, gate.tries) == (1, ["connected"])
    assert listed(virsh) == {"test": 1}
    assert (gate.entered, gate.tries) == (2, ["connected"])
    assert virsh.sessions()["all"] == SessionCounts(open=1, started=1, lost=0)


def test_listing_and_commands_share_a_session(virsh: Virsh, before: set[int]) -> None:
    virsh.destroy(1)
    pid = only_child(before)
    assert listed(virsh) == {"test": 5}
    virsh.start("test")
    assert only_child(before) == pid


def test_connection_that_fails_is_unreachable(gate: Keeper, before: set[int]) -> None:
    with closing(open_virsh(NOWHERE, gate=gate)) as virsh:
        listing = virsh.listing()
        sweep(listing)
        with pytest.raises(Unreachable, match="Failed to connect socket") as caught:
            listing.result()
        assert gate.tries == [str(caught.value)]
        assert children() == before
        assert listing.descriptors == ()


def test_listing_that_is_refused_is_over_at_once(virsh: Virsh, gate: Keeper) -> None:
    gate.shut = True
    with pytest.raises(Unavailable, match="shut"):
        virsh.listing()
    assert virsh.sessions()["all"].started == 0


def test_listing_of_who_has_stopped(virsh: Virsh) -> None:
    virsh.stop()
    with pytest.raises(Stopping):
        virsh.listing()


def test_late_answer_is_read_by_the_same_listing(virsh: Virsh, before: set[int]) -> None:
    listed(virsh)
    pid = only_child(before)
    processes.freeze(pid)
    with closing(virsh.listing()) as listing:
        assert [listing.proceed() for _ in range(3)] == [False] * 3
        with pytest.raises(NoAnswer, match="domstats --state --nowait; list --all"):
            listing.result()
        processes.thaw(pid)
        sweep(listing)
        assert listing.result()[1] == {"test": 1}
    assert only_child(before) == pid


def test_listing_left_in_the_middle_ends_its_session(
    virsh: Virsh, before: set[int], gate: Keeper
) -> None:
    listed(virsh)
    pid = only_child(before)
    processes.freeze(pid)
    listing = virsh.listing()
    listing.close()
    assert children() == before
    assert (gate.suspected, gate.tries) == (1, ["connected"])
    assert listing.proceed()
    with pytest.raises(NoAnswer):
        listing.result()
    assert listed(virsh) == {"test": 1}
    assert virsh.sessions()["all"] == SessionCounts(open=1, started=2, lost=1)


def test_listing_left_while_it_connects_makes_room(fragile: Laboratory, gate: Keeper) -> None:
    with closing(open_virsh(fragile.uri, gate=gate, sessions=FOR_ONE_OF_MANY)) as virsh:
        fragile.libvirtd.freeze()
        try:
            listing = virsh.listing()
            assert not listing.proceed()
            listing.close()
        finally:
            fragile.libvirtd.thaw()
        # It had not had the time that a connection may take.
        assert (gate.suspected, gate.tries) == (1, [])
        assert listed(virsh) == {}
        assert gate.tries == ["connected"]


def test_connection_that_takes_too_long_is_told(fragile: Laboratory, gate: Keeper) -> None:
    with closing(open_virsh(fragile.uri, gate=gate, connect=0)) as virsh:
        fragile.libvirtd.freeze()
        try:
            virsh.listing().close()
        finally:
            fragile.libvirtd.thaw()
        assert [words.partition(" 'domstats")[0] for words in gate.tries] == [
            "libvirt did not answer"
        ]


def test_virsh_killed_during_a_listing(virsh: Virsh, before: set[int]) -> None:
    listed(virsh)
    pid = only_child(before)
    processes.freeze(pid)
    with closing(virsh.listing()) as listing:
        os.kill(pid, signal.SIGKILL)
        sweep(listing)
        with pytest.raises(ConnectionLost):
            listing.result()
    assert listed(virsh) == {"test": 1}


def test_session_lost_while_idle_is_replaced(virsh: Virsh, before: set[int]) -> None:
    listed(virsh)
    pid = only_child(before)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert listed(virsh) == {"test": 1}
    assert only_child(before) != pid


def test_listing_stands_in_line_for_a_session(virsh: Virsh, before: set[int]) -> None:
    virsh.connect()
    pid = only_child(before)
    with closing(virsh.listing()) as first, closing(virsh.listing()) as second:
        # The first may be over by now, and has then made way for the second.
        sweep(first, second)
        assert first.result() == second.result()
    assert only_child(before) == pid


def test_commands_stand_in_line_behind_a_listing(virsh: Virsh) -> None:
    with ThreadPoolExecutor(1) as thread, closing(virsh.listing()) as listing:
        waiting = thread.submit(virsh.domstate, "test")
        sweep(listing)
        # It has given its session back, though nobody has closed it yet.
        assert waiting.result(30) == ("running", "unknown")


def test_busy_host_is_listed(virsh: Virsh) -> None:
    """Whatever number of requests wants its only session."""

    def work(_: int) -> None:
        for _ in range(30):
            virsh.domstate("test")

    virsh.connect()
    with ThreadPoolExecutor(16) as threads:
        done = [threads.submit(work, number) for number in range(16)]
        for _ in range(10):
            assert listed(virsh) == {"test": 1}
        for future in done:
            future.result(30)


def test_listing_in_line_asks_the_gate_again(virsh: Virsh, gate: Keeper) -> None:
    with closing(virsh.listing()) as first, closing(virsh.listing()) as second:
        gate.shut = True
        virsh.give_up_waiting()
        sweep(second)
        with pytest.raises(Unavailable, match="shut"):
            second.result()
        sweep(first)
        assert first.result()[1] == {"test": 1}


def test_listing_closed_in_line_is_given_nothing(virsh: Virsh) -> None:
    with closing(virsh.listing()) as first:
        virsh.listing().close()
        sweep(first)
    assert virsh.domstate("test") == ("running", "unknown")


def test_closing_ends_a_listing(virsh: Virsh) -> None:
    with closing(virsh.listing()) as connecting, closing(virsh.listing()) as waiting:
        virsh.close()
        sweep(connecting, waiting)
        with pytest.raises(Unreachable):
            connecting.result()
        with pytest.raises(Stopping):
            waiting.result()


def test_listing_is_reported_with_its_time(before: set[int]) -> None:
    seen: list[tuple[str, float]] = []
    with closing(open_virsh(DEFAULT, on_command=lambda *report: seen.append(report))) as virsh:
        listed(virsh)
        virsh.listing().close()
    assert [command for command, _ in seen] == ["list", "list"]
    assert all(seconds > 0 for _, seconds in seen)


def test_listing_leaves_no_descriptor(virsh: Virsh) -> None:
    listed(virsh)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        listed(virsh)
        with closing(virsh.listing()) as first:
            virsh.listing().close()
            sweep(first)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_hypervisor_without_a_notion_of_machines_refuses(gate: Keeper, tmp_path: Path) -> None:
    with closing(open_virsh(f"secret:///embed?root={tmp_path}", gate=gate)) as virsh:
        with closing(virsh.listing()) as listing:
            sweep(listing)
            with pytest.raises(Refused, match="not supported by the connection driver"):
                listing.result()
        assert gate.tries == ["connected"]
        assert virsh.sessions()["read"].open + virsh.sessions()["list"].open == 1
