"""Who gets which session, how many there are, and what becomes of those that break."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mc.errors import ConnectionLost, NoAnswer, Stopping, Unreachable
from mc.virsh.pool import Pool, SessionCounts
from mc.virsh.session import Session
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


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


def make_pool(
    opener: Opener, *, keep: int = 1, limit: int = 1, patience: float = 0
) -> closing[Pool]:
    return closing(Pool(opener, keep=keep, limit=limit, patience=patience, connect_seconds=30))


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
        assert len(opener.living) == 1


def test_one_waiting_caller_keeps_one_surplus_session(
    opener: Opener, threads: ThreadPoolExecutor
) -> None:
    with make_pool(opener, keep=1, limit=3) as pool:
        for _ in range(20):
            with pool.session(soon()) as session, pool.session(soon()), pool.session(soon()):
                waiting = threads.submit(echo, pool)
                session.run(["echo", "x"], soon())  # meanwhile it begins to wait
            assert waiting.result(30) == b"x"
            assert len(opener.living) == 1


def test_surplus_is_closed_when_it_comes_back(opener: Opener) -> None:
    with make_pool(opener, keep=1, limit=3) as pool:
        with pool.session(soon()), pool.session(soon()), pool.session(soon()):
            assert len(opener.living) == 3
        assert len(opener.living) == 1
        assert echo(pool) == b"x"
        assert opener.calls == 3


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

    with closing(Pool(new_session, keep=1, limit=1, patience=0, connect_seconds=30)) as pool:
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
