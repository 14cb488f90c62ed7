"""Slow, silent and broken clients: they are dealt with, and nobody waits for them."""

import http.client
import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.daemon import Daemon
from tests.lab import until

STATUS = b"GET /service/test/state_controller/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
OFF = b"GET /service/test/state_controller/force_off HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With so few workers, and so long a time-out, that a single waiting one would show."""
    file = tmp_path_factory.mktemp("reception") / "mc.conf"
    file.write_text(
        "[global]\nserver.thread_pool = 2\nservice.event_streams = 0\n"
        "server.socket_timeout = 120.0\nserver.max_connections = 400\n"
    )
    with Daemon("--connect", "test:///default", "--config", str(file)) as daemon:
        yield daemon


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Daemon]:
    """One that waits for a second only."""
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nserver.socket_timeout = 1.0\nserver.max_connections = 8\n")
    with Daemon("--connect", "test:///default", "--config", str(file)) as daemon:
        yield daemon


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=60)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the daemon ends the connection."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@contextmanager
def dripping(daemon: Daemon, count: int) -> Iterator[None]:
    """Clients that send a byte a second of a request that acts."""
    stopped = Event()

    def drip() -> None:
        for position in range(60):
            for one in clients:
                one.send(OFF[position : position + 1])
            if stopped.wait(1):
                return

    with ExitStack() as stack:
        clients = [stack.enter_context(connect(daemon)) for _ in range(count)]
        thread = Thread(target=drip)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def test_status_answers_while_200_clients_are_slow_and_100_are_idle(daemon: Daemon) -> None:
    with dripping(daemon, 200), ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(daemon))
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        for _ in range(50):
            assert daemon.status("test")["power"] == "on"
            connection.request("GET", "/service/test")
            assert connection.getresponse().read()
        connection.close()


def test_answers_to_requests_in_a_row_come_in_a_row(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        connection.sendall(STATUS * 20)
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection).count(b"HTTP/1.1 200 OK") == 20


def test_status_answers_while_40_clients_do_not_read(daemon: Daemon) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(unread(daemon, DOCUMENT * 50)) for _ in range(40)]
        for _ in range(50):
            assert daemon.status("test")["power"] == "on"
        clients[0].shutdown(socket.SHUT_WR)
        first, *others = rest(clients[0]).split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert json.loads(first.partition(b"\r\n\r\n")[2])["openapi"]
        assert [len(other) for other in others] == [len(first)] * 49


def test_answer_that_nobody_reads_is_given_up(hasty: Daemon) -> None:
    with unread(hasty, DOCUMENT * 50) as connection, suppress(ConnectionError):
        assert connection.recv(1) == b"H"
        until(lambda: sockets(hasty) == 1, 30, "end of the connection, not of the listener")
        assert rest(connection).count(b"HTTP/1.1 200 OK") < 50


def sockets(daemon: Daemon) -> int:
    """How many are open."""
    count = 0
    for file in Path(f"/proc/{daemon.pid}/fd").iterdir():
        # It may be closed meanwhile.
        with suppress(FileNotFoundError):
            count += str(file.readlink()).startswith("socket:")
    return count


def open_files(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


@contextmanager
def unread(daemon: Daemon, requests: bytes) -> Iterator[socket.socket]:
    """A client whose system takes little for it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", daemon.port))
        connection.sendall(requests)
        yield connection


def test_request_may_come_byte_by_byte(daemon: Daemon) -> None:
    body = b'{"device": "disk"}'
    head = b"PUT /service/test/boot HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with connect(daemon) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head % len(body) + body:
            connection.send(bytes([byte]))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_client_that_expects_continue_is_told_to(daemon: Daemon) -> None:
    head = b"PUT /service/test/boot HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18\r\n"
    with connect(daemon) as connection:
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"device": "disk"}')
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_request_that_ends_early_is_answered_and_does_nothing(daemon: Daemon) -> None:
    before = len(daemon.virsh_commands())
    for part in (OFF, OFF[:-2], b"POST" + OFF[3:] + b"Content-Length: 9\r\n\r\n{}", b"G"):
        with connect(daemon) as connection:
            connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            head, _, body = rest(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["status"] == 400
    assert daemon.virsh_commands()[before:] == []


def test_refusal_is_read_by_a_client_that_is_still_sending(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        for _ in range(20):
            connection.sendall(b"GET /" + b"a" * 100_000)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 414 ")


def test_flood_of_empty_lines_keeps_nobody_waiting(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        # As soon as the daemon has seen enough of it, nobody reads it any more.
        with suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(b"\r\n" * 10_000)
        assert daemon.status("test")["power"] == "on"


def test_request_that_takes_too_long_is_ended(hasty: Daemon) -> None:
    with connect(hasty) as connection:
        connection.sendall(OFF)
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"Content-Type: application/problem+json" in answer
    assert not any("destroy" in command for command in hasty.virsh_commands())


def test_idle_connection_is_closed_without_a_word(hasty: Daemon) -> None:
    with connect(hasty) as connection:
        assert rest(connection) == b""
    with connect(hasty) as connection:
        connection.sendall(STATUS)
        assert rest(connection).count(b"HTTP/1.1") == 1


def test_oldest_connection_makes_room(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nserver.socket_timeout = 120.0\nserver.max_connections = 8\n")
    with Daemon("--connect", "test:///default", "--config", str(file)) as few, ExitStack() as stack:
        clients = []
        for _ in range(12):
            clients.append(stack.enter_context(connect(few)))
            clients[-1].sendall(STATUS)
            assert clients[-1].recv(1 << 16).startswith(b"HTTP/1.1 200")
        until(lambda: sum(map(has_ended, clients)) == 4, 30, "end of the oldest")
        # On a busy host an answer may be read before the daemon begins to wait again.
        for new in clients[6:]:
            new.sendall(STATUS)
            assert new.recv(1 << 16).startswith(b"HTTP/1.1 200")


def has_ended(connection: socket.socket) -> bool:
    """Whether the daemon has ended a connection, all of whose answers have been read."""
    ready, _, _ = select.select([connection], [], [], 0)
    return bool(ready)


def test_clients_that_vanish_leave_nothing_behind(daemon: Daemon) -> None:
    before = open_files(daemon)
    for number in range(50):
        with connect(daemon) as connection:
            connection.sendall(STATUS * (number % 3) + OFF[: number % 7])
    until(lambda: open_files(daemon) <= before, 30, "closed connections")


def test_end_does_not_wait_for_clients(tmp_path: Path) -> None:
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nserver.socket_timeout = 600.0\n")
    with Daemon("--connect", "test:///default", "--config", str(file)) as daemon:
        with connect(daemon) as one, connect(daemon) as other:
            one.sendall(OFF)
            other.sendall(STATUS)
            assert other.recv(1 << 16)
            daemon.stop()
        assert daemon.process.returncode == 0


def test_port_is_free_when_the_daemon_was_killed(tmp_path: Path) -> None:
    with Daemon("--connect", "test:///default") as killed:
        with connect(killed) as client:
            client.sendall(STATUS)
            assert client.recv(1 << 16)
            killed.kill()
            assert rest(client) == b""
        listen = f"--listen=127.0.0.1:{killed.port}"
        with Daemon("--connect", "test:///default", listen) as daemon:
            assert daemon.port == killed.port
