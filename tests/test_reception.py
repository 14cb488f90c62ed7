"""Slow, silent and broken clients: they are dealt with, and nobody waits for them."""

import http.client
import json
import resource
import select
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from mc.users import add_user
from tests.daemon import Daemon
from tests.digest import authorization, nonce_of
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


def connect(daemon: Daemon, source: str = "127.0.0.1") -> socket.socket:
    address = ("127.0.0.1", daemon.port)
    return socket.create_connection(address, timeout=60, source_address=(source, 0))


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


@pytest.fixture
def few(tmp_path: Path) -> Iterator[Daemon]:
    """One that has eight connections at most, six of one address."""
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nserver.socket_timeout = 120.0\nserver.max_connections = 8\n")
    with Daemon("--connect", "test:///default", "--config", str(file)) as daemon:
        yield daemon


def test_oldest_connection_of_an_address_makes_room(few: Daemon) -> None:
    with ExitStack() as stack:
        clients = []
        for _ in range(12):
            clients.append(stack.enter_context(connect(few)))
            clients[-1].sendall(STATUS)
            assert clients[-1].recv(1 << 16).startswith(b"HTTP/1.1 200")
        until(lambda: sum(map(has_ended, clients)) == 6, 30, "end of the oldest")
        # On a busy host an answer may be read before the daemon begins to wait again.
        for new in clients[8:]:
            new.sendall(STATUS)
            assert new.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_who_has_most_connections_makes_room_for_others(few: Daemon) -> None:
    with ExitStack() as stack:
        clients = {
            source: [stack.enter_context(connect(few, f"127.0.0.{source}")) for _ in range(number)]
            for source, number in ((2, 2), (3, 6))
        }
        for source in (4, 5, 6):
            clients[source] = [stack.enter_context(connect(few, f"127.0.0.{source}"))]
        until(lambda: sum(map(has_ended, clients[3])) == 3, 30, "end of the oldest")
        for source in (2, 4, 5, 6):
            for client in clients[source]:
                client.sendall(STATUS)
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_flood_from_one_address_resets_nobody_elsewhere(few: Daemon) -> None:
    stopped = Event()

    def flood() -> None:
        with ExitStack() as stack:
            while not stopped.is_set():
                # The system may have none left for so short a time.
                with suppress(OSError):
                    stack.enter_context(connect(few, "127.0.0.9"))

    threads = [Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        kept = http.client.HTTPConnection(
            "127.0.0.1", few.port, timeout=60, source_address=("127.0.0.2", 0)
        )
        for _ in range(100):
            kept.request("GET", "/service/test")
            assert kept.getresponse().read()
            with connect(few, "127.0.0.3") as new:
                new.sendall(STATUS)
                assert new.recv(1 << 16).startswith(b"HTTP/1.1 200")
        kept.close()
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


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


def test_every_answer_at_the_connection_limit_is_to_the_question(tmp_path: Path) -> None:
    """40 clients where 12 fit: they are cut off all the time, and never told somebody else's."""
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nserver.max_connections = 12\n")
    counts: Counter[str] = Counter()

    def ask(port: int, client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(1000):
            question = f"{client}-{number}"
            try:
                connection.request("GET", f"/service/{question}")
                body = connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                counts["cut off"] += 1
                connection.close()
                continue
            told = json.loads(body)["detail"] == f"libvirt has no machine '{question}'"
            counts["right" if told else "wrong"] += 1
        connection.close()

    arguments = ("--connect", "test:///default", "--config", str(file), "--log-level=info")
    with Daemon(*arguments) as few:
        threads = [Thread(target=ask, args=(few.port, client)) for client in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert "Traceback" not in few.log()
    assert counts["wrong"] == 0
    assert counts["right"] > 1000
    assert counts["cut off"] > 10


def test_user_whose_request_is_under_way_keeps_the_connection(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "admin", "secret")
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nserver.max_connections = 8\nserver.socket_timeout = 60.0\n")
    arguments = ("--connect", "test:///default", "--config", str(file))
    with Daemon(*arguments, f"--users={tmp_path}/users") as few, ExitStack() as stack:
        user = stack.enter_context(connect(few))
        signed = authorization("/service/test", nonce_of(few.get("/")))["Authorization"]
        head = f"GET /service/test HTTP/1.1\r\nHost: localhost\r\nAuthorization: {signed}\r\n"
        user.sendall(head.encode() + b"\r\n")
        assert user.recv(1 << 16).startswith(b"HTTP/1.1 200")
        # Half of the next one; whoever begins one later has more time for it.
        user.sendall(head.encode())
        until(lambda: few.get("/healthz").status == 200, 30, "an answer after that")
        others = []
        for _ in range(40):
            others.append(stack.enter_context(connect(few)))
            with suppress(ConnectionError):
                others[-1].sendall(OFF)
        until(lambda: sum(map(has_ended, others)) >= 35, 30, "end of the others")
        user.sendall(b"\r\n")
        assert user.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_too_many_open_files_are_logged_once(tmp_path: Path) -> None:
    """And it goes on when there are fewer."""
    with Daemon("--connect", "test:///default") as daemon:
        assert daemon.status("test")["power"] == "on"
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (open_files(daemon) + 5, 4096))
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connect(daemon))
            until(lambda: "connections not accepted" in daemon.log(), 30, "word of it")
            until(lambda: daemon.get("/nope").status == 404, 30, "an answer all the same")
        assert 1 <= daemon.log().count("connections not accepted") <= 10
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (4096, 4096))
        assert daemon.status("test")["power"] == "on"


def test_strangers_at_the_health_check_hold_up_nobody(tmp_path: Path) -> None:
    """While libvirt, here a program that never answers, hangs."""
    virsh = tmp_path / "virsh"
    virsh.write_text('#!/bin/sh\ncase "$*" in *version*) exec virsh "$@";; esac\nexec sleep 600\n')
    virsh.chmod(0o755)
    file = tmp_path / "mc.conf"
    file.write_text(
        f"[global]\nserver.thread_pool = 10\nlibvirt.virsh = {str(virsh)!r}\n"
        "libvirt.read_seconds = 60.0\n"
    )
    with (
        Daemon("--connect", "qemu:///system", "--config", str(file)) as daemon,
        ExitStack() as stack,
    ):
        for _ in range(200):
            stack.enter_context(connect(daemon)).sendall(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
        for _ in range(50):
            assert daemon.get("/openapi.json").status == 200
        assert daemon.get("/healthz").json["libvirt"] == "unreachable"
