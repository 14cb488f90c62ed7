"""Who may act on a machine, and how many may act at all."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from mc.errors import Busy, HostBusy, NoSuchMachine, TooMany
from mc.machine.machines import Machines
from mc.machine.turns import MachineTurns, Places, Turns
from tests.hypervisor import open_virsh, uuid_of
from tests.lab.waiting import until

FOREVER = 3600.0
MANY = 1000


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


def try_turn(turns: Turns | MachineTurns, key: str) -> None:
    with turns.turn(key):
        pass


def waiting(turns: Turns) -> int:
    """How many machines somebody acts on or waits for."""
    return len(turns._queues)


def test_turns_on_one_machine_exclude_each_other(threads: ThreadPoolExecutor) -> None:
    turns = Turns(FOREVER, MANY)
    inside: list[str] = []
    crowds: list[int] = []

    def work(_: int) -> None:
        with turns.turn("a"):
            inside.append("someone")
            crowds.append(len(inside))
            inside.pop()

    list(threads.map(work, range(500)))
    assert crowds == [1] * 500


def test_turn_is_waited_for(threads: ThreadPoolExecutor) -> None:
    turns = Turns(FOREVER, MANY)
    with turns.turn("a"):
        future = threads.submit(try_turn, turns, "a")
        with turns.turn("b"):
            assert not future.done()
    assert future.result(30) is None


def test_machines_do_not_wait_for_each_other(threads: ThreadPoolExecutor) -> None:
    turns = Turns(FOREVER, MANY)
    both_inside = threading.Barrier(2, timeout=30)

    def work(key: str) -> None:
        with turns.turn(key):
            both_inside.wait()

    for future in [threads.submit(work, "a"), threads.submit(work, "b")]:
        future.result(30)


def test_turn_that_does_not_come_is_busy() -> None:
    turns = Turns(0.05, MANY)
    with turns.turn("a"), pytest.raises(Busy) as caught:
        try_turn(turns, "a")
    assert caught.value.ahead == 1


def test_turn_that_does_not_come_before_a_deadline_is_busy() -> None:
    turns = Turns(FOREVER, MANY)
    with turns.turn("a"), pytest.raises(Busy), turns.turn("a", time.monotonic() + 0.05):
        pass


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Of the one machine, `test`, of libvirt's default test hypervisor."""
    with closing(open_virsh("test:///default")) as virsh:
        yield Machines(virsh)


def test_error_tells_the_machine_once_it_is_known(machines: Machines) -> None:
    turns = MachineTurns(machines, Turns(0.05, MANY), "here", MANY)
    found = machines.find("test")
    for reference in (found.name, found.uuid):
        with turns.turn(found.uuid), pytest.raises(Busy) as caught, turns.of(reference):
            pass
        assert (caught.value.name, caught.value.uuid) == (found.name, found.uuid)
        name = f"here called {reference}"
        with turns.turn(name), pytest.raises(Busy) as caught, turns.of(reference):
            pass
        assert (caught.value.name, caught.value.uuid) == (None, None)
    for reference in ("nobody", uuid_of(99)):
        with pytest.raises(NoSuchMachine) as missing, turns.of(reference):
            pass
        assert (missing.value.name, missing.value.uuid) == (None, None)


def test_machine_that_is_on_two_hosts_has_one_turn(machines: Machines) -> None:
    turns = Turns(0, MANY)
    here, there = (MachineTurns(machines, turns, host, MANY) for host in ("here", "there"))
    with here.of("test"), pytest.raises(Busy), there.of("test"):
        pass
    with there.of("test"):
        pass


def test_names_of_two_hosts_do_not_wait_for_each_other(machines: Machines) -> None:
    """Whoever waits there for libvirt to tell which machine is meant delays nobody here."""
    turns = Turns(0, MANY)
    here, there = (MachineTurns(machines, turns, host, MANY) for host in ("here", "there"))
    with there.of("test"), pytest.raises(Busy) as caught, here.of("test"):
        pass
    # It is known which machine is meant: what is waited for is the turn of that.
    assert caught.value.name == "test"


def test_few_wait_for_the_turns_of_a_host(machines: Machines, threads: ThreadPoolExecutor) -> None:
    turns = Turns(FOREVER, MANY)
    here, there = (MachineTurns(machines, turns, host, 2) for host in ("here", "there"))
    uuid = machines.find("test").uuid

    def act(host: MachineTurns, reference: str) -> None:
        with host.of(reference):
            pass

    with turns.turn(uuid):
        waiting = [threads.submit(act, here, reference) for reference in ("test", uuid)]
        until(lambda: here._free._value, 30, "two who wait", lambda free: free == 0)
        with pytest.raises(HostBusy) as caught, here.of(uuid.upper()):
            pass
        assert caught.value.limit == 2
        assert (caught.value.name, caught.value.uuid) == ("test", uuid)
        # What is free is had at once; whoever has begun may wait, and so may other hosts' callers.
        with pytest.raises(NoSuchMachine):
            act(here, "nobody")
        waiting += [threads.submit(try_turn, here, uuid), threads.submit(act, there, "test")]
        until(lambda: turns._queues[uuid].length, 30, "two more", lambda length: length == 5)
    for future in waiting:
        future.result(30)
    with here.of("test"):
        pass
    assert here._free._value == 2


def test_queue_that_is_too_long_is_busy_at_once(threads: ThreadPoolExecutor) -> None:
    turns = Turns(FOREVER, 2)
    release = threading.Event()
    inside = threading.Event()

    def hold() -> None:
        with turns.turn("a"):
            inside.set()
            assert release.wait(30)

    first = threads.submit(hold)
    assert inside.wait(30)
    second = threads.submit(try_turn, turns, "a")
    until(lambda: turns._queues["a"].length == 2, 30, "second in the queue")
    with pytest.raises(Busy):
        try_turn(turns, "a")
    try_turn(turns, "b")
    release.set()
    for future in (first, second):
        future.result(30)
    try_turn(turns, "a")


def test_without_patience_a_taken_turn_is_busy_and_a_free_one_is_not() -> None:
    turns = Turns(0, MANY)
    with turns.turn("a"):
        with pytest.raises(Busy):
            try_turn(turns, "a")
        try_turn(turns, "b")


def test_busy_leaves_the_turn_to_whoever_has_it() -> None:
    turns = Turns(0, MANY)
    with turns.turn("a"):
        for _ in range(3):
            with pytest.raises(Busy):
                try_turn(turns, "a")
    try_turn(turns, "a")


def test_error_ends_the_turn() -> None:
    turns = Turns(0, MANY)
    with pytest.raises(ZeroDivisionError), turns.turn("a"):
        raise ZeroDivisionError
    try_turn(turns, "a")


def test_nothing_is_remembered_of_turns_that_are_over(threads: ThreadPoolExecutor) -> None:
    """A daemon sees many UUIDs in its life."""
    turns = Turns(0, MANY)
    with turns.turn("a"):
        with pytest.raises(Busy):
            try_turn(turns, "a")
        assert waiting(turns) == 1
    with pytest.raises(ZeroDivisionError), turns.turn("b"):
        raise ZeroDivisionError
    patient = Turns(FOREVER, MANY)
    list(threads.map(lambda number: try_turn(patient, str(number % 5)), range(500)))
    assert waiting(turns) == waiting(patient) == 0


def test_waiting_for_a_turn_survives_that_others_gave_up(threads: ThreadPoolExecutor) -> None:
    """The queue of a machine lives as long as anybody is in it, so that there is only one."""
    turns = Turns(0.3, MANY)
    release = threading.Event()
    inside = threading.Event()

    def hold() -> None:
        with turns.turn("a"):
            inside.set()
            assert release.wait(30)

    holder = threads.submit(hold)
    assert inside.wait(30)
    with pytest.raises(Busy):
        try_turn(turns, "a")
    with pytest.raises(Busy):
        try_turn(turns, "a")
    release.set()
    holder.result(30)
    try_turn(turns, "a")


def test_places_are_limited() -> None:
    places = Places(3)
    with ExitStack() as taken:
        for _ in range(3):
            taken.enter_context(places.place())
        with pytest.raises(
            TooMany, match="as many actions are under way already as may be: 3"
        ) as caught:
            taken.enter_context(places.place())
    assert caught.value.limit == 3


def test_place_is_free_again_after_its_action() -> None:
    places = Places(1)
    for _ in range(3):
        with places.place():
            pass


def test_error_frees_the_place() -> None:
    places = Places(1)
    with pytest.raises(ZeroDivisionError), places.place():
        raise ZeroDivisionError
    with places.place():
        pass


def test_refusal_takes_no_place() -> None:
    places = Places(1)
    with places.place():
        for _ in range(3):
            with pytest.raises(TooMany), places.place():
                pass
    with places.place(), pytest.raises(TooMany), places.place():
        pass
