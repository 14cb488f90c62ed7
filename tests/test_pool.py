"""Who gets which session, how many there are, and what becomes of those that break."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mc.errors import ConnectionLost, HostBusy, NoAnswer, Stopping, Unavailable, Unreachable
from mc.virsh.gate import Gate, OpenGate
from mc.virsh.layout import Bounds
from mc.virsh.pool import Pool, SessionCounts, Shared, Waiter
from mc.virsh.session import Session
from tests.gate import Keeper
from tests.lab import processes
from tests.lab.waiting import until

FOREVER = 3600.0


def soon() -> float:
    return time.monotonic() + 30


def at_once() -> float:
    return time.monotonic() + 0.1


class Opener:
    """Opens sessions, on the URIs given first, then on the default one, and remembers them."""

    def __init__(self, *uris: str) -> None:
        self.opened: list[Session] = []
        self.calls = 0
        self._uris = list(uris)

    def __call__(self) -> Session:
        self.calls += 1
        uri = self._uris.pop(0) if self._uris else "test:///default"
        session = Session("virsh", uri)
        self.opened.append(session)
        return session

    @property
    def living(self) -> list[int]:
        """Ids of the virsh processes that there are, zombies among them."""
        return [one.pid for one in self.opened if processes.state(one.pid)]


@pytest.fixture
def opener() -> Opener:
    return Opener()


class Mute:
    """A socket that takes connections and never says anything."""

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self.uri = f"qemu+unix:///session?socket={path}"
        self._listener = listener
        self._connections: list[socket.socket] = []

    def accept(self) -> None:
        connection, _ = self._listener.accept()
        self._connections.append(connection)

    def hang_up(self) -> None:
        while self._connections:
            self._connections.pop().close()


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[Mute]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        listener.settimeout(30)
        mute = Mute(listener, tmp_path / "sock")
        yield mute
        mute.hang_up()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


class WholePool(Pool):
    """A pool that is all that there is of a host."""

    def close(self) -> None:
        self._shared.closed = True
        for session in self.stop():
            session.close()


def share(
    opener: Callable[[], Session],
    *,
    waiting: int = 8,
    gate: Gate | None = None,
    connect_seconds: float = 30,
) -> Shared:
    return Shared(opener, gate or OpenGate(), connect_seconds, waiting)


def make_pool(
    opener: Callable[[], Session],
    *,
    keep: int = 1,
    limit: int = 1,
    patience: float = 0,
    waiting: int = 8,
    gate: Gate | None = None,
) -> closing[WholePool]:
    shared = share(opener, waiting=waiting, gate=gate)
    return closing(WholePool(shared, Bounds(keep, limit, patience)))


def echo(pool: Pool, text: str = "x") -> bytes:
    deadline = soon()
    with pool.session(deadline) as session:
        return session.run(["echo", text], deadline)


def kill(session: Session) -> None:
    os.kill(session.pid, signal.SIGKILL)
    os.waitid(os.P_PID, session.pid, os.WEXITED | os.WNOWAIT)


def test_no_session_is_opened_before_it_is_needed(opener: Opener) -> None:
    with make_pool(opener):
        assert opener.calls == 0


def test_one_caller_after_the_other_uses_one_session(opener: Opener) -> None:
    with make_pool(opener, keep=4, limit=8) as pool:
        assert [echo(pool, str(number)) for number in range(20)] == [
            str(number).encode() for number in range(20)
        ]
        assert opener.calls == 1


def test_no_more_than_keep_are_opened_while_sessions_come_back(
    opener: Opener, threads: ThreadPoolExecutor
) -> None:
    with make_pool(opener, keep=2, limit=8, patience=FOREVER) as pool:
        texts = [str(number) for number in range(400)]
        answers = list(threads.map(lambda text: echo(pool, text), texts))
        assert answers == [text.encode() for text in texts]
        assert 1 <= opener.calls <= 2


def test_patient_caller_opens_none_beyond_those_kept(opener: Opener) -> None:
    with make_pool(opener, keep=1, limit=8, patience=FOREVER) as pool, pool.session(soon()):
        with pytest.raises(NoAnswer), pool.session(at_once()):
            pass
        assert opener.calls == 1


def test_another_is_opened_when_those_kept_are_stuck(opener: Opener) -> None:
    with (
        make_pool(opener, keep=1, limit=2, patience=0.05) as pool,
        pool.session(soon()) as one,
        pool.session(soon()) as other,
    ):
        assert one.pid != other.pid
        assert other.run(["echo", "x"], soon()) == b"x"


def test_no_more_than_limit_are_open(opener: Opener) -> None:
    with make_pool(opener, keep=1, limit=3) as pool, ExitStack() as taken:
        for _ in range(3):
            taken.enter_context(pool.session(soon()))
        with (
            pytest.raises(NoAnswer, match="a free virsh session"),
            pool.session(at_once()),
        ):
            pass
        assert len(opener.living) == 3


def test_no_more_than_limit_are_open_under_load(
    opener: Opener, threads: ThreadPoolExecutor
) -> None:
    inside: list[Session] = []

    def work(_: int) -> int:
        with pool.session(soon()) as session:
            inside.append(session)
            session.run(["echo", "x"], soon())
            count = len(inside)
            inside.remove(session)
        return count

    with make_pool(opener, keep=1, limit=3) as pool:
        assert max(threads.map(work, range(60))) <= 3
        assert len(opener.living) <= 3


def long_ago() -> float:
    """So that no session has been idle since: nothing is too old."""
    return time.monotonic() - FOREVER


def spare(pool: Pool, idle_since: float) -> list[int]:
    """Ids of those that were not to be kept, ended."""
    sessions = pool.spare(idle_since)
    for session in sessions:
        session.close()
    return [session.pid for session in sessions]


def test_sessions_beyond_those_kept_end_when_idle_too_long(opener: Opener) -> None:
    with make_pool(opener, keep=1, limit=4) as pool:
        with pool.session(soon()), pool.session(soon()), pool.session(soon()):
            assert spare(pool, time.monotonic()) == []
        assert spare(pool, long_ago()) == []
        assert len(opener.living) == 3
        kept = opener.opened[0]  # the last to come back, and the next to be taken
        assert set(spare(pool, time.monotonic())) == {one.pid for one in opener.opened} - {kept.pid}
        assert opener.living == [kept.pid]
        assert echo(pool) == b"x"
        assert opener.calls == 3


def test_none_is_kept_where_none_is_to_be(opener: Opener) -> None:
    with make_pool(opener, keep=0, limit=2) as pool:
        echo(pool)
        assert spare(pool, long_ago()) == []
        assert len(spare(pool, time.monotonic())) == 1
        assert pool.counts() == SessionCounts(open=0, started=1, lost=0)
        assert echo(pool) == b"x"


def test_session_that_is_taken_counts_among_those_kept(opener: Opener) -> None:
    with make_pool(opener, keep=1, limit=2) as pool, pool.session(soon()) as taken:
        with pool.session(soon()):
            pass
        assert spare(pool, time.monotonic()) == [opener.opened[1].pid]
        assert opener.living == [taken.pid]


def test_session_lost_while_idle_is_not_kept(opener: Opener) -> None:
    with make_pool(opener) as pool:
        echo(pool)
        kill(opener.opened[0])
        assert spare(pool, long_ago()) == [opener.opened[0].pid]
        assert opener.living == []
        assert pool.counts() == SessionCounts(open=0, started=1, lost=1)


def test_waiting_caller_gets_the_session_that_comes_back(
    opener: Opener, threads: ThreadPoolExecutor
) -> None:
    with make_pool(opener) as pool:
        with pool.session(soon()) as session:
            waiting = threads.submit(echo, pool, "mine")
            assert session.run(["echo", "x"], soon()) == b"x"
            assert not waiting.done()
        assert waiting.result(30) == b"mine"
        assert opener.calls == 1


def test_session_killed_while_idle_is_replaced(opener: Opener) -> None:
    with make_pool(opener) as pool:
        echo(pool)
        kill(opener.opened[0])
        assert echo(pool) == b"x"
        assert opener.living == [opener.opened[1].pid]


def test_all_sessions_killed_while_idle_are_replaced(opener: Opener) -> None:
    with make_pool(opener, keep=3, limit=3) as pool:
        with pool.session(soon()), pool.session(soon()), pool.session(soon()):
            pass
        for session in list(opener.opened):
            kill(session)
        assert echo(pool) == b"x"
        assert opener.living == [opener.opened[-1].pid]


def test_session_killed_during_a_command_is_replaced(opener: Opener) -> None:
    with make_pool(opener) as pool:
        with pytest.raises(ConnectionLost), pool.session(soon()) as session:
            kill(session)
            session.run(["echo", "x"], soon())
        assert opener.living == []
        assert echo(pool) == b"x"


def test_session_that_missed_a_deadline_is_replaced(opener: Opener) -> None:
    with make_pool(opener) as pool:
        with pytest.raises(NoAnswer), pool.session(soon()) as session:
            processes.freeze(session.pid)
            session.run(["echo", "x"], at_once())
        assert opener.living == []
        assert echo(pool) == b"x"


def test_error_of_the_caller_gives_the_session_back(opener: Opener) -> None:
    with make_pool(opener) as pool:
        with pytest.raises(ZeroDivisionError), pool.session(soon()):
            raise ZeroDivisionError
        assert echo(pool) == b"x"
        assert opener.calls == 1


def test_failure_to_open_leaves_the_pool_usable() -> None:
    opener = Opener("test:///nonexistent", "test:///nonexistent")
    with make_pool(opener) as pool:
        for _ in range(2):
            with pytest.raises(Unreachable):
                echo(pool)
        assert echo(pool) == b"x"


def test_missing_virsh_leaves_the_pool_usable() -> None:
    binaries = ["/nonexistent/virsh", "virsh"]

    def new_session() -> Session:
        return Session(binaries.pop(0), "test:///default")

    with make_pool(new_session) as pool:
        with pytest.raises(Unreachable, match="/nonexistent/virsh"):
            echo(pool)
        assert echo(pool) == b"x"


def test_close_ends_the_idle_sessions(opener: Opener) -> None:
    with make_pool(opener, keep=2, limit=2) as pool:
        with pool.session(soon()), pool.session(soon()):
            pass
        pool.close()
        assert opener.living == []


def test_closed_pool_opens_nothing(opener: Opener) -> None:
    with make_pool(opener) as pool:
        echo(pool)
        pool.close()
        with pytest.raises(Stopping):
            echo(pool)
        assert opener.calls == 1


def test_close_is_harmless_twice(opener: Opener) -> None:
    with make_pool(opener) as pool:
        echo(pool)
        pool.close()
        pool.close()


def test_close_ends_a_command_under_way_in_another_thread(
    opener: Opener, threads: ThreadPoolExecutor
) -> None:
    with make_pool(opener) as pool:
        echo(pool)
        processes.freeze(opener.opened[0].pid)
        taken = threading.Event()

        def work() -> bytes:
            with pool.session(soon()) as session:
                taken.set()
                return session.run(["echo", "x"], time.monotonic() + FOREVER)

        future: Future[bytes] = threads.submit(work)
        assert taken.wait(30)
        pool.close()
        with pytest.raises(ConnectionLost):
            future.result(30)
        assert opener.living == []


def test_close_turns_waiting_callers_away(opener: Opener, threads: ThreadPoolExecutor) -> None:
    with make_pool(opener) as pool, pool.session(soon()):
        waiting = [threads.submit(echo, pool) for _ in range(3)]
        pool.close()
        for future in waiting:
            with pytest.raises(Stopping):
                # Long before its own deadline.
                future.result(10)


def test_session_that_comes_back_to_a_closed_pool_is_closed(opener: Opener) -> None:
    with make_pool(opener) as pool:
        with pool.session(soon()):
            pool.close()
        assert opener.living == []


def test_close_ends_a_connection_that_is_being_made(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    """To a libvirt that hangs: whoever stops the controller should not wait for the deadline."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        opener = Opener(f"qemu+unix:///session?socket={tmp_path}/sock")
        with make_pool(opener) as pool:
            future = threads.submit(echo, pool)
            listener.settimeout(30)
            connection, _ = listener.accept()
            pool.close()
            try:
                with pytest.raises((Stopping, Unreachable, ConnectionLost)):
                    future.result(5)
            finally:
                connection.close()
    until(lambda: not opener.living, 30, "end of virsh")


def test_counts_tell_open_started_and_lost_sessions(opener: Opener) -> None:
    with make_pool(opener, keep=1, limit=2) as pool:
        assert pool.counts() == SessionCounts(open=0, started=0, lost=0)
        with pool.session(soon()), pool.session(soon()) as surplus:
            assert pool.counts() == SessionCounts(open=2, started=2, lost=0)
            kill(surplus)
            with pytest.raises(ConnectionLost):
                surplus.run(["echo", "x"], soon())
        assert pool.counts() == SessionCounts(open=1, started=2, lost=1)
        kill(opener.opened[0])
        echo(pool)
        assert pool.counts() == SessionCounts(open=1, started=3, lost=2)
    assert pool.counts() == SessionCounts(open=0, started=3, lost=2)


def test_session_that_never_connected_counts_as_lost() -> None:
    with make_pool(Opener("qemu+unix:///session?socket=/nonexistent/sock")) as pool:
        with pytest.raises(Unreachable):
            echo(pool)
        assert pool.counts() == SessionCounts(open=0, started=1, lost=1)


def test_gate_is_asked_before_each_command_and_told_of_each_try() -> None:
    gate = Keeper()
    opener = Opener("test:///nonexistent")
    with make_pool(opener, gate=gate) as pool:
        with pytest.raises(Unreachable) as caught:
            echo(pool)
        assert (gate.entered, gate.tries) == (1, [str(caught.value)])
        echo(pool)
        echo(pool)
        assert (gate.entered, gate.tries[1:]) == (3, ["connected"])


def test_gate_that_is_shut_lets_no_request_through() -> None:
    gate, opener = Keeper(), Opener()
    gate.shut = True
    with make_pool(opener, gate=gate) as pool:
        with pytest.raises(Unavailable, match="shut"):
            echo(pool)
        assert opener.calls == 0
        with pool.session(soon(), by_request=False) as session:
            assert session.run(["echo", "x"], soon()) == b"x"
        assert gate.tries == ["connected"]


def test_gate_is_told_that_virsh_does_not_start() -> None:
    gate = Keeper()
    with make_pool(lambda: Session("/nonexistent/virsh", "test:///default"), gate=gate) as pool:
        for _ in range(2):
            with pytest.raises(Unreachable):
                echo(pool)
    assert [words.partition(" ")[0] for words in gate.tries] == ["/nonexistent/virsh"] * 2


def in_line(pool: Pool, number: int) -> None:
    until(lambda: len(pool._line), 30, f"line of {number}", lambda length: length == number)


def test_whoever_waits_asks_the_gate_again(threads: ThreadPoolExecutor) -> None:
    gate, opener = Keeper(), Opener()
    with make_pool(opener, gate=gate) as pool, pool.session(soon()) as session:
        waiting = [threads.submit(echo, pool) for _ in range(3)]
        in_line(pool, 3)
        pool._shared.wake_all()
        until(lambda: gate.entered, 30, "questions", lambda entered: entered >= 7)
        in_line(pool, 3)
        gate.shut = True
        pool._shared.wake_all()
        for future in waiting:
            with pytest.raises(Unavailable, match="shut"):
                future.result(30)
        assert session.run(["echo", "x"], soon()) == b"x"
        assert (opener.calls, pool._shared.overdue) == (1, 0)


def test_session_goes_to_who_came_first(opener: Opener, threads: ThreadPoolExecutor) -> None:
    order: list[int] = []

    def work(number: int) -> None:
        with pool.session(soon()):
            order.append(number)

    with make_pool(opener) as pool:
        with pool.session(soon()):
            waiting = []
            for number in range(6):
                waiting.append(threads.submit(work, number))
                in_line(pool, number + 1)
        for future in waiting:
            future.result(30)
    assert order == list(range(6))


def test_first_session_connects_alone(mute: Mute, threads: ThreadPoolExecutor) -> None:
    """Over all pools of a host: so that a host sees one login, and others find it open."""
    opener = Opener(*[mute.uri] * 3)
    shared = share(opener)
    reading, acting = (WholePool(shared, Bounds(4, 4, patience=0)) for _ in range(2))
    with closing(reading), closing(acting):
        future = threads.submit(echo, reading)
        mute.accept()
        others = [threads.submit(echo, pool) for pool in (reading, acting, acting)]
        in_line(reading, 1)
        in_line(acting, 2)
        assert opener.calls == 1
        # The next one is tried as soon as this one has failed, and it alone.
        mute.hang_up()
        with pytest.raises(Unreachable):
            future.result(30)
        mute.accept()
        assert opener.calls == 2
        mute.hang_up()
        mute.accept()
        mute.hang_up()
        until(lambda: sum(one.done() for one in others), 30, "ends", lambda done: done == 3)
    assert opener.living == []


def test_whoever_may_connect_next_is_woken(mute: Mute, threads: ThreadPoolExecutor) -> None:
    shared = share(Opener(mute.uri))
    reading, acting = (WholePool(shared, Bounds(1, 1, patience=0)) for _ in range(2))
    woken = threading.Event()
    waiter = Waiter(woken.set)
    with closing(reading), closing(acting):
        first = threads.submit(echo, reading)
        mute.accept()
        assert acting.seek(waiter) is None
        mute.hang_up()
        assert woken.wait(30)
        acting.leave(waiter)
        with pytest.raises(Unreachable):
            first.result(30)


def test_a_few_connect_at_a_time(mute: Mute) -> None:
    opener = Opener("test:///default", *[mute.uri] * 9)
    shared = share(opener)
    reading, acting = (WholePool(shared, Bounds(9, 9, patience=0)) for _ in range(2))
    with (
        ThreadPoolExecutor(9) as threads,
        closing(reading),
        closing(acting),
        reading.session(soon()),
    ):
        waiting = [threads.submit(echo, pool) for pool in [reading] * 4 + [acting] * 4]
        for calls in (5, 9):
            for _ in range(4):
                mute.accept()
            until(lambda: len(reading._line) + len(acting._line), 30, "line", (9 - calls).__eq__)
            assert opener.calls == calls
            mute.hang_up()
        for future in waiting:
            with pytest.raises(Unreachable):
                future.result(30)


def test_line_is_bounded(opener: Opener, threads: ThreadPoolExecutor) -> None:
    """Of those who wait long: a newcomer is refused at once, nobody of the line is."""
    with make_pool(opener, waiting=2) as pool:
        with pool.session(soon()) as session:
            waiting = [threads.submit(echo, pool) for _ in range(2)]
            until(lambda: pool._shared.overdue, 30, "two overdue", lambda number: number == 2)
            with pytest.raises(HostBusy, match="2 earlier requests") as caught:
                echo(pool)
            assert caught.value.limit == 2
            # The prober is none of them.
            with pytest.raises(NoAnswer), pool.session(at_once(), by_request=False):
                pass
            assert session.run(["echo", "x"], soon()) == b"x"
        assert [future.result(30) for future in waiting] == [b"x"] * 2
        assert echo(pool) == b"x"
        assert pool._shared.overdue == 0


def test_line_is_bounded_over_all_pools(opener: Opener, threads: ThreadPoolExecutor) -> None:
    shared = share(opener, waiting=1)
    reading, acting = (WholePool(shared, Bounds(1, 1, patience=0)) for _ in range(2))
    with closing(reading), closing(acting), reading.session(soon()), acting.session(soon()):
        waiting = threads.submit(echo, reading)
        until(lambda: shared.overdue, 30, "one overdue")
        with pytest.raises(HostBusy):
            echo(acting)
        reading.close()
        with pytest.raises(Stopping):
            waiting.result(30)


def test_one_too_many_is_refused_when_it_has_waited_too_long(opener: Opener) -> None:
    with ThreadPoolExecutor(6) as threads, make_pool(opener, waiting=2) as pool:
        with pool.session(soon()):
            waiting = [threads.submit(echo, pool) for _ in range(6)]
            until(lambda: sum(one.done() for one in waiting), 30, "refusals", (4).__eq__)
            refused = [one for one in waiting if one.done()]
            for future in refused:
                with pytest.raises(HostBusy):
                    future.result()
        assert [one.result(30) for one in waiting if one not in refused] == [b"x"] * 2


def test_busy_host_that_is_well_refuses_nobody(opener: Opener) -> None:
    """64 callers at once, on one session, whatever number of requests may wait for a slow host."""

    def work(number: int) -> list[bytes]:
        return [echo(pool, f"{number}.{again}") for again in range(30)]

    with ThreadPoolExecutor(64) as threads, make_pool(opener) as pool:
        echo(pool)
        answers = list(threads.map(work, range(64)))
        assert answers == [[f"{n}.{again}".encode() for again in range(30)] for n in range(64)]
        assert opener.calls == 1


def test_session_handed_to_who_has_given_up_goes_to_the_next(
    opener: Opener, threads: ThreadPoolExecutor
) -> None:
    with make_pool(opener) as pool:
        gone = Waiter(lambda: None)
        with pool.session(soon()):
            assert pool.seek(gone) is None
            waiting = threads.submit(echo, pool)
            in_line(pool, 2)
        assert gone.handed
        pool.leave(gone)
        assert waiting.result(30) == b"x"
        assert len(pool._idle) == 1
