"""`GET /events`: what changes is told as it changes, and a stream costs what it may."""

import base64
import json
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from mc.users import add_user
from tests.booting import machines, set_boot, wait_for_reboot_rule
from tests.certificate import certificate
from tests.daemon import Daemon
from tests.event_source import EventSource
from tests.hypervisor import hypervisor, uuid_of
from tests.lab import Laboratory, until

OK, UNAVAILABLE = 200, 503
PATIENCE = 30.0
UP = {"host": "local", "reachable": True}
NAMES = ["vm", "it's", 'a"b', "früh 测试", "line\u2028separator", "event: gone", "<b>&amp;"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    file = tmp_path_factory.mktemp("events") / "machines.xml"
    uri = hypervisor(file, [(name, "running") for name in NAMES])
    with Daemon("--connect", uri) as daemon:
        yield daemon


def small_daemon(folder: Path, machines: int = 3, **settings: object) -> Daemon:
    """A daemon of one's own with these settings, dots in their names as underscores."""
    lines = [f"{key.replace('__', '.')} = {value!r}" for key, value in settings.items()]
    config = folder / "settings.conf"
    config.write_text("\n".join(["[global]", *lines, ""]))
    names = [(f"vm-{number}-{'x' * 150}", "running") for number in range(machines)]
    uri = hypervisor(folder / "machines.xml", names)
    return Daemon("--connect", uri, "--config", str(config))


def test_stream_begins_with_everything(daemon: Daemon) -> None:
    with EventSource(daemon) as events:
        assert events.status == OK
        assert events.response.getheader("Content-Type") == "text/event-stream"
        assert events.response.getheader("Cache-Control") == "no-store"
        assert events.line() == b"retry: 1000\n"
        assert events.next() == ("libvirt", UP)
        assert events.next() == ("host", daemon.get("/hosts/local").json)
        assert events.next() == ("machines", daemon.get("/service/machines").json)


def test_changes_are_told(daemon: Daemon) -> None:
    with EventSource(daemon) as one, EventSource(daemon) as two:
        for events in (one, two):
            events.wait_for("machines")
        for name in NAMES:
            assert daemon.act(name, "force_off").status == OK
            off = daemon.get("/service/machines").json[sorted(NAMES).index(name)]
            assert off["power"] == "off"
            for events in (one, two):
                assert events.wait_for_machine(name, "shut off") == off
            assert daemon.act(name, "power_on").status == OK
            for events in (one, two):
                assert events.wait_for_machine(name, "running")["id"] > 0


def test_stream_is_events_and_comments_only(daemon: Daemon) -> None:
    """Line by line, until there has been a sign of life."""
    with EventSource(daemon) as events:
        lines = []
        while b": \n" not in lines:
            lines.append(events.line())
        assert lines[0] == b"retry: 1000\n"
        for line in lines:
            field = line.partition(b": ")[0]
            assert field in (b"retry", b"event", b"data", b"", b"\n"), line
            if field == b"data":
                json.loads(line.partition(b": ")[2])


def test_state_words(tmp_path: Path) -> None:
    with (
        small_daemon(tmp_path, service__state_words="power") as daemon,
        EventSource(daemon) as events,
    ):
        name = events.wait_for("machines")[0]["name"]
        daemon.act(name, "force_off")
        assert events.wait_for_machine(name, "off")["power"] == "off"


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE"])
def test_there_is_only_get(daemon: Daemon, method: str) -> None:
    answer = daemon.request(method, "/events")
    assert answer.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert answer.headers["allow"] == "GET, OPTIONS"


def test_parameter_is_refused_and_takes_no_place(tmp_path: Path) -> None:
    with small_daemon(tmp_path, service__event_streams=1) as daemon:
        for _ in range(3):
            assert daemon.get("/events?since=0").status == HTTPStatus.BAD_REQUEST
        with EventSource(daemon) as events:
            events.wait_for("machines")


def test_client_of_http_1_0_reads_until_the_connection_ends(tmp_path: Path) -> None:
    with small_daemon(tmp_path) as daemon:
        with socket.create_connection(("127.0.0.1", daemon.port), PATIENCE) as connection:
            connection.sendall(b"GET /events HTTP/1.0\r\n\r\n")
            received = b""
            while b"event: machines\n" not in received:
                received += connection.recv(1 << 16)
            assert b"chunked" not in received
            daemon.process.terminate()
            while data := connection.recv(1 << 16):
                received += data
        assert daemon.process.wait(PATIENCE) == 0
        assert received.partition(b"\r\n\r\n")[2].startswith(b"retry: 1000\n\nevent: libvirt\n")


def refused(daemon: Daemon) -> Any:
    """The problem that a stream too many is answered with; None if it is not refused."""
    with EventSource(daemon) as events:
        if events.status == OK:
            return None
        assert events.status == UNAVAILABLE
        assert events.response.getheader("Content-Type") == "application/problem+json"
        assert events.response.getheader("Retry-After") == "1"
        return events.problem


def test_more_streams_than_allowed_are_refused(tmp_path: Path) -> None:
    with small_daemon(tmp_path, service__event_streams=2) as daemon, ExitStack() as stack:
        first, _ = [stack.enter_context(EventSource(daemon)) for _ in range(2)]
        assert "event streams are under way already as may be: 2" in refused(daemon)["detail"]
        assert daemon.get("/service/machines").status == OK
        first.close()
        until(lambda: refused(daemon) is None, PATIENCE, "place that is free again")


def test_no_streams_at_all(tmp_path: Path) -> None:
    with small_daemon(tmp_path, service__event_streams=0) as daemon:
        assert "event streams are under way already as may be: 0" in refused(daemon)["detail"]


@pytest.mark.parametrize("how", ["closed", "reset", "at once"])
def test_client_that_goes_away_frees_its_place(tmp_path: Path, how: str) -> None:
    with small_daemon(tmp_path, service__event_streams=1) as daemon:
        for _ in range(3):
            events = until(
                lambda: EventSource(daemon),
                PATIENCE,
                "place that is free",
                lambda events: events.status == OK,
            )
            if how != "at once":
                events.wait_for("machines")
            if how == "reset":
                linger = struct.pack("ii", 1, 0)
                events.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            events.close()


def test_client_that_does_not_read_loses_its_place(tmp_path: Path) -> None:
    """And costs nobody else anything meanwhile."""
    daemon = small_daemon(
        tmp_path, machines=1000, service__event_streams=1, server__socket_timeout=1.0
    )
    with daemon, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        deaf.connect(("127.0.0.1", daemon.port))
        # The list of machines is more than the buffers between the two of them hold.
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert deaf.recv(16).startswith(b"HTTP/1.1 200")
        assert daemon.get("/service/machines").status == OK
        until(lambda: refused(daemon) is None, PATIENCE, "end of the stream that nobody reads")


def test_end_of_the_daemon_ends_the_streams(tmp_path: Path) -> None:
    with small_daemon(tmp_path) as daemon, ExitStack() as stack:
        streams = [stack.enter_context(EventSource(daemon)) for _ in range(8)]
        for events in streams:
            events.wait_for("machines")
        daemon.process.terminate()
        for events in streams:
            with pytest.raises(EOFError):
                events.next()
        assert daemon.process.wait(PATIENCE) == 0
        assert "Traceback" not in daemon.log()


def test_thousand_machines(tmp_path: Path) -> None:
    with small_daemon(tmp_path, machines=1000) as daemon, EventSource(daemon) as events:
        everything = events.wait_for("machines")
        assert everything == daemon.get("/service/machines").json
        assert len(everything) == 1000
        name = everything[500]["name"]
        daemon.act(name, "force_off")
        assert events.wait_for_machine(name, "shut off")["id"] is None


def test_nothing_is_asked_while_nobody_listens(daemon: Daemon) -> None:
    with EventSource(daemon) as events:
        events.wait_for("machines")
    lists, since = -1, 0.0

    def quiet() -> bool:
        """Whether no list has been read for as long as would be enough for several."""
        nonlocal lists, since
        daemon.status("vm")
        now = sum(one.startswith("domstats") for one in daemon.virsh_commands())
        if now != lists:
            lists, since = now, time.monotonic()
        return time.monotonic() - since > 2

    until(quiet, PATIENCE, "end of the reading")


def test_stream_over_tls_needs_a_user_and_ends_with_the_client(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    add_user(tmp_path / "users", "reader", "secret")
    trusting = ssl.create_default_context(cafile=str(cert))
    head = "GET /events HTTP/1.1\r\nHost: localhost\r\n"
    words = base64.b64encode(b"reader:secret").decode()
    daemon = small_daemon(
        tmp_path,
        service__event_streams=1,
        server__ssl_certificate=str(cert),
        server__ssl_private_key=str(key),
        auth__users_file=str(tmp_path / "users"),
        auth__readers=["reader"],
    )

    def begins(more: str) -> bytes:
        """What is received until the list of machines or the end of the headers."""
        address = ("127.0.0.1", daemon.port)
        with (
            socket.create_connection(address, PATIENCE) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(f"{head}{more}\r\n".encode())
            received = b""
            while not re.search(rb"event: machines\n|HTTP/1.1 [45]", received):
                received += connection.recv(1 << 16)
            return received

    with daemon:
        assert begins("").startswith(b"HTTP/1.1 401 ")
        for _ in range(2):
            until(
                lambda: begins(f"Authorization: Basic {words}\r\n"),
                PATIENCE,
                "stream over TLS",
                lambda received: received.startswith(b"HTTP/1.1 200 "),
            )


# On real machines.


def test_what_virsh_does_elsewhere_is_told(lab: Laboratory, daemon_on_lab: Daemon) -> None:
    with EventSource(daemon_on_lab) as events:
        events.wait_for("machines")
        machine = lab.define("followed")
        assert events.wait_for_machine("followed", "shut off")["uuid"] == machine.uuid
        machine.boot()
        events.wait_for_machine("followed", "running")
        machine.virsh("suspend")
        events.wait_for_machine("followed", "paused")
        machine.destroy()
        events.wait_for_machine("followed", "shut off")
        machine.virsh("undefine")
        events.wait_for("gone", lambda data: data == {"host": "local", "uuid": machine.uuid})


def test_boot_order_that_is_set_is_told(lab: Laboratory, daemon_on_lab: Daemon) -> None:
    """Which the list of machines does not show, so that only an event can tell it."""
    with machines(lab) as define:
        wait_for_reboot_rule(daemon_on_lab, define)
        machine = define()
        with EventSource(daemon_on_lab) as events:
            events.wait_for("machines")
            set_boot(daemon_on_lab, machine, "pxe", once=True)
            events.wait_for_machine(machine.name, "shut off")


def test_machines_that_match_no_pattern_are_not_told(lab: Laboratory, tmp_path: Path) -> None:
    config = tmp_path / "settings.conf"
    config.write_text("[global]\nlibvirt.machines = ['mine-*']\n")
    with (
        Daemon("--connect", lab.uri, "--config", str(config)) as daemon,
        EventSource(daemon) as events,
    ):
        assert events.wait_for("machines") == []
        other, mine = lab.define("not-mine"), lab.define("mine-1")
        other.boot()
        other.virsh("reset")
        mine.boot()
        told: list[Any] = []
        while not told or told[-1]["state"] != "running":
            told.append(events.wait_for("machine"))
        assert {one["name"] for one in told} == {"mine-1"}
        mine.destroy()
        other.destroy()
        mine.virsh("domrename", "yours")
        events.wait_for("gone", lambda data: data == {"host": "local", "uuid": mine.uuid})
        for machine in (other, mine):
            lab.virsh("undefine", machine.uuid)


def test_libvirtd_that_is_killed_and_back_is_told() -> None:
    with Laboratory() as lab, Daemon("--connect", lab.uri) as daemon:
        machine = lab.define("survivor")
        with EventSource(daemon) as events:
            everything = events.wait_for("machines")
            assert [one["uuid"] for one in everything] == [machine.uuid]
            for _ in range(2):
                lab.libvirtd.kill()
                away = events.wait_for("libvirt")
                assert away["reachable"] is False
                assert away["detail"]
                with EventSource(daemon) as late:
                    assert late.wait_for("libvirt")["reachable"] is False
                lab.libvirtd.start()
                events.wait_for("libvirt", lambda data: data == UP)
                assert events.wait_for("machines") == everything
                machine.boot()
                events.wait_for_machine("survivor", "running")
                machine.destroy()
                events.wait_for_machine("survivor", "shut off")


def test_libvirtd_that_is_away_at_the_start_is_told() -> None:
    with Laboratory() as lab:
        machine = lab.define("late")
        lab.libvirtd.kill()
        with Daemon("--connect", lab.uri) as daemon, EventSource(daemon) as events:
            assert events.wait_for("libvirt")["reachable"] is False
            lab.libvirtd.start()
            events.wait_for("libvirt", lambda data: data["reachable"])
            assert [one["uuid"] for one in events.wait_for("machines")] == [machine.uuid]


def test_uuids_are_those_of_the_list(daemon: Daemon) -> None:
    with EventSource(daemon) as events:
        everything = events.wait_for("machines")
    assert {one["uuid"] for one in everything} == {uuid_of(number) for number in range(len(NAMES))}
