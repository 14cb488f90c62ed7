"""Thousands of requests of every kind: nothing breaks, and nothing acts unasked.

Each acting virsh command in the daemon's log has to be explained by what was sent.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from itertools import product
from pathlib import Path
from typing import Self

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.daemon import READS, Daemon, destroy
from tests.hostile import (
    CREDENTIALS,
    HOST,
    LOCAL,
    MACHINES,
    NASTY,
    PUBLIC,
    STREAMS,
    TEMPLATES,
    VICTIM,
    Request,
    ambiguous_requests,
    encoded,
    mangled,
    nasty,
    plausible_requests,
    requests,
    requests_in,
)
from tests.hypervisor import DEVICES, hypervisor
from tests.wire import Response, Wire


def fuzz(examples: int) -> settings:
    """The same requests each time; a failure is shown as it is, since the machines have moved."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("fuzz")
    uri = hypervisor(folder / "machines.xml", MACHINES, DEVICES)
    with Daemon("--connect", uri, "--backup-dir", str(folder / "backups")) as daemon:
        assert daemon.get("/service/vm").status == HTTPStatus.OK
        (session,) = daemon.children()
        yield daemon
        # Nothing has broken the session, in which the machines live.
        assert daemon.children() == [session]
        assert daemon.get("/service/vm").status == HTTPStatus.OK
        assert "Traceback" not in daemon.log()


def check(request: Request, response: Response | None) -> None:
    """What every answer has to be, whatever was asked."""
    assert response is not None, request
    full = [503] if STREAMS.fullmatch(request.plain_path) else []
    assert response.status < 500 or response.status in [501, 505, *full], (request, response)
    assert "x-injected" not in response.headers, (request, response)
    assert "set-cookie" not in response.headers, (request, response)
    if response.status >= 400:
        assert response.headers["content-type"] == "application/problem+json", (request, response)
        if request.method != b"HEAD":
            assert response.json["status"] == response.status


class Commands:
    """The virsh commands that a daemon gives, each of which has its reason in what was sent."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._note()

    def _note(self) -> None:
        """Note which runs there are: UUIDs by what `destroy` calls them. A stranger sees none."""
        answer = self._daemon.get("/service/machines")
        machines = answer.json if answer.status == HTTPStatus.OK else []
        self._runs = {destroy(one["id"]): one["uuid"] for one in machines if one["id"] is not None}
        self._start = self._daemon.log_size()

    def check(self, sent: list[Request]) -> list[str]:
        """Those since the last check, or since the beginning."""
        explained = {pair for request in sent for pair in request.explains()}
        lines = self._daemon.virsh_commands(self._start)
        self._start = self._daemon.log_size()
        for line in lines:
            command, *arguments = shlex.split(line)
            if command in READS:
                continue
            if command in ("define", "create"):
                assert command in {command for command, _ in explained}, (line, sent)
            elif command == "destroy":
                uuid = self._runs[line.removesuffix(" --graceful")]
                assert (command, uuid) in explained, (line, sent)
            else:
                uuid = arguments[arguments.index("--domain") + 1]
                assert (command, uuid) in explained, (line, sent)
        if any(line.startswith(("start ", "create ")) for line in lines):
            self._note()
        return lines


class Client:
    """Sends sound requests to a daemon, as many on a connection as it allows."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._commands = Commands(daemon)
        self._wire = Wire(daemon.port)
        self.sent = 0

    def send(self, request: Request, *, least: int = 200) -> list[str]:
        """Send a request and look at all that comes of it; the virsh commands that did.

        `least` is the lowest status that is right.
        """
        self._wire.send(request.data)
        response = self._wire.response(to_head=request.method == b"HEAD")
        check(request, response)
        assert response and response.status >= least, (request, response)
        if response.ends_connection:
            self._wire.close()
            self._wire = Wire(self._daemon.port)
        self.sent += 1
        return self._commands.check([request])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()


def test_only_what_was_asked_for_is_done(daemon: Daemon) -> None:
    """By the methods that act, and for nobody's page: the URL table, as far as it acts."""
    with Client(daemon) as client:
        done = {
            line.split()[0] for request in plausible_requests() for line in client.send(request)
        }
    # Most of those that there are, whatever state the machines were in.
    assert len(done - READS) >= 5, done


def test_no_name_is_taken_for_a_command(daemon: Daemon) -> None:
    """Names, of all URLs, that a shell or virsh would understand."""
    with Client(daemon) as client:
        before = daemon.get(f"/service/{VICTIM}").json
        for name, template in product(map(encoded, NASTY), map(str.encode, TEMPLATES)):
            # Of a machine on the host that there is, and of the host itself.
            for target in sorted({template.replace(b"{host}", host) for host in (LOCAL, name)}):
                named = target.replace(b"{machine}", name).replace(b"{verb}", name)
                client.send(Request(b"GET", named, [HOST], b""))
        assert daemon.get(f"/service/{VICTIM}").json == before


def test_nothing_breaks_whatever_is_sent(daemon: Daemon) -> None:
    """Sound requests with anything in them, many on each connection."""
    with Client(daemon) as client:

        @fuzz(2000)
        @given(requests())
        def exchange(request: Request) -> None:
            client.send(request)

        exchange()
        assert client.sent >= 1000


def test_nobody_gets_in_without_a_password(tmp_path: Path) -> None:
    """Whatever stands in the headers, of which some look like credentials."""
    users = tmp_path / "users"
    users.touch(0o600)
    users.write_text(f"admin:libvirt_mc:{'0' * 32}\n")
    uri = hypervisor(tmp_path / "machines.xml", MACHINES, DEVICES)
    with Daemon("--connect", uri, "--users", str(users)) as daemon, Client(daemon) as client:

        @fuzz(300)
        @given(requests(), st.sampled_from(CREDENTIALS), nasty)
        def exchange(request: Request, scheme: bytes, credentials: bytes) -> None:
            value = scheme + credentials.translate(None, b"\r\n\0").rstrip()
            others = [header for header in request.headers if header[0] != b"Authorization"]
            asked = replace(request, headers=[*others, (b"Authorization", value)], foreign=True)
            is_public = PUBLIC.fullmatch(asked.plain_path)
            client.send(asked, least=200 if is_public else 400)

        exchange()


def test_no_request_hides_in_another(daemon: Daemon) -> None:
    """Requests that contradict themselves: what stands in their bodies is never done."""
    commands = Commands(daemon)

    @fuzz(500)
    @given(ambiguous_requests())
    def exchange(request: Request) -> None:
        with Wire(daemon.port) as wire:
            wire.send(request.data, last=True)
            while response := wire.response():
                check(request, response)
                if response.goes_on:
                    break
        commands.check([request])

    exchange()


def test_garbage_is_answered_or_dropped(daemon: Daemon) -> None:
    """Bytes that are hardly a request at all, and requests that are cut off or mangled."""
    commands = Commands(daemon)

    @fuzz(500)
    @given(st.binary(max_size=200) | st.lists(nasty, max_size=8).map(b"".join) | mangled())
    def exchange(data: bytes) -> None:
        with Wire(daemon.port) as wire:
            wire.send(data, last=True)
            answers = wire.everything()
        full = [b"503"] if STREAMS.search(data) else []
        statuses = set(re.findall(rb"HTTP/1\.1 (\d+) ", answers)) - {b"501", b"505", *full}
        assert all(status < b"500" for status in statuses), (data, answers)
        commands.check(requests_in(data))

    exchange()
