"""Who may act on a machine, and how many may act at all."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from mc.errors import Busy, TooMany
from mc.machine.machines import Machines
from mc.machine.turns import MachineTurns, Places, Turns
from tests.hypervisor import open_virsh
from tests.lab.waiting import until

FOREVER = 3600.0
MANY = 1000


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


def try_turn(turns: Turns, key: str) -> None:
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


def test_error_tells_the_machine_once_it_was_found() -> None:
    with closing(open_virsh("test:///default")) as virsh:
        machines = Machines(virsh)
        turns = MachineTurns(machines, 0.05, MANY)
        found = machines.find("test")
        for reference in (found.name, found.uuid):
            with turns.turn(found.uuid), pytest.raises(Busy) as caught, turns.of(reference):
                pass
            assert (caught.value.name, caught.value.uuid) == (found.name, found.uuid)
            name = f"called {reference}"
            with turns.turn(name), pytest.raises(Busy) as caught, turns.of(reference):
                pass
            assert (caught.value.name, caught.value.uuid) == (None, None)


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
