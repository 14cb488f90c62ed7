"""Who is let in: Digest as real clients speak it and as attackers might, and read-only users."""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import cast

import pytest
import requests
from requests.auth import HTTPDigestAuth

from mc.users import add_user
from mc.web.access.attempts import RATE
from mc.web.routes import routes
from mc.web.service.controller import Controller
from tests.daemon import READS, Answer, Daemon
from tests.digest import authorization, nonce_of
from tests.hypervisor import hypervisor
from tests.lab import until
from tests.wire import Wire

OK, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, UNAVAILABLE = 200, 401, 403, 404, 503
STATUS = "/service/vm/state_controller/status"
OFF = "/service/vm/state_controller/force_off"
ON = "/service/vm/state_controller/power_on"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("accounts")


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[Daemon]:
    add_user(folder / "users", "admin", "secret")
    add_user(folder / "users", "monitor", "watch")
    (folder / "mc.conf").write_text('[global]\nauth.readers = ["monitor"]\n')
    uri = hypervisor(folder / "machines.xml", [("vm", "running"), ("späce vm", "running")])
    arguments = ("--config", str(folder / "mc.conf"), "--users", str(folder / "users"))
    with Daemon("--connect", uri, *arguments) as daemon:
        yield daemon


def session(user: str = "admin", password: str = "secret") -> requests.Session:  # noqa: S107
    made = requests.Session()
    made.trust_env = False
    made.auth = HTTPDigestAuth(user, password)
    return made


def url(daemon: Daemon, path: str) -> str:
    return f"http://127.0.0.1:{daemon.port}{path}"


def signed(daemon: Daemon, path: str, **how: str | None) -> Answer:
    """The answer to a request with a proof of its own making."""
    nonce = how.pop("nonce", None) or nonce_of(daemon.get(path))
    uri = how.pop("uri", None) or path
    return daemon.request("GET", path, headers=authorization(uri, nonce, **how))  # type: ignore[arg-type]


def test_every_route_needs_a_user(daemon: Daemon) -> None:
    """By every method, also one that there is not, and where there is nothing."""
    before = len(daemon.virsh_commands())
    templates = [route for route in routes(cast(Controller, None)) if not route.resource.public]
    assert len(templates) > 20
    paths = [
        route.template.replace("{host}", "local").replace("{machine}", "vm") for route in templates
    ]
    for path in [*paths, "/nope", "/service/vm/nope", "/favicon.ico"]:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"):
            answer = daemon.request(method, path, b"{}" if method in ("POST", "PUT") else None)
            assert answer.status == UNAUTHORIZED, (method, path, answer)
            challenge = answer.headers["www-authenticate"]
            assert challenge.startswith('Digest realm="libvirt_mc", nonce="')
            assert "Basic" not in challenge
    # But for the daemon's own look at the start which machines there are.
    own = {"hostname", "domstats --state --nowait", "list --all --uuid --id --name"}
    assert set(daemon.virsh_commands()[before:]) <= own


def test_requests_gets_in_by_digest(daemon: Daemon) -> None:
    with session() as client:
        for path in (STATUS, f"{STATUS}?", "/service/sp%C3%A4ce%20vm", "/service/machines"):
            assert client.get(url(daemon, path), timeout=30).status_code == OK
        assert client.get(url(daemon, "/nope"), timeout=30).status_code == NOT_FOUND
        query = url(daemon, "/service/vm/state_controller/power_off?wait=5&force=true")
        assert client.get(query, timeout=30).json()["state"] == "shut off"
        assert client.post(url(daemon, ON), json={}, timeout=30).json()["state"] == "running"


def curl(*arguments: str) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--max-time", "30", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_curl_gets_in_by_digest(daemon: Daemon) -> None:
    for how in ("--digest", "--anyauth"):
        assert json.loads(curl(how, "-u", "admin:secret", url(daemon, STATUS)))["power"] == "on"


def test_basic_is_for_tls_only(daemon: Daemon) -> None:
    answer = json.loads(curl("--basic", "-u", "admin:secret", url(daemon, STATUS)))
    assert answer["status"] == UNAUTHORIZED


def test_log_names_the_user_who_acted(daemon: Daemon) -> None:
    with session() as client:
        client.get(url(daemon, ON), timeout=30)
    assert ' user=admin machine="vm" ' in daemon.log()


def test_reader_reads_and_does_not_act(daemon: Daemon) -> None:
    before = len(daemon.virsh_commands())
    with session("monitor", "watch") as client:
        for path in ("/", "/service/machines", STATUS, "/service/vm/state_controller"):
            assert client.get(url(daemon, path), timeout=30).status_code == OK
        acting = [
            (method, route.template)
            for route in routes(cast(Controller, None))
            for method in route.resource.methods()
            if method != "OPTIONS" and route.resource.operation(method).acts
        ]
        assert len(acting) > 20
        for method, template in acting:
            path = template.replace("{machine}", "vm")
            answer = client.request(method, url(daemon, path), timeout=30)
            assert (answer.status_code, "may only read" in answer.text) == (FORBIDDEN, True)
    words = {command.split(" ")[0] for command in daemon.virsh_commands()[before:]}
    assert words <= READS


def test_proof_without_qop_is_good(daemon: Daemon) -> None:
    """RFC 2069, which old clients speak."""
    assert signed(daemon, STATUS, qop=None).status == OK
    assert signed(daemon, STATUS).status == OK


@pytest.mark.parametrize(
    "how",
    [
        {"password": "wrong"},
        {"user": "nobody"},
        {"user": "monitor"},
        {"realm": "printers"},
        {"qop": "auth-int"},
        {"algorithm": "MD5-sess"},
        {"algorithm": "SHA-256"},
        {"method": "POST"},
        {"signed": STATUS},
        {"uri": STATUS},
        {"uri": OFF + "?"},
        {"uri": OFF + "/"},
        {"uri": "/" + OFF},
    ],
)
def test_proof_of_something_else_is_refused(daemon: Daemon, how: dict[str, str]) -> None:
    before = len(daemon.virsh_commands())
    assert signed(daemon, OFF, **how).status == UNAUTHORIZED
    assert daemon.virsh_commands()[before:] == []


def test_proof_counts_for_the_whole_url_as_a_proxy_may_have_seen_it(daemon: Daemon) -> None:
    whole = url(daemon, STATUS)
    assert signed(daemon, STATUS, uri=whole).status == OK


def test_proof_is_of_the_url_as_it_came_with_its_slashes(daemon: Daemon) -> None:
    odd = STATUS.replace("/", "//")
    assert signed(daemon, odd).status == OK
    assert signed(daemon, odd, uri=STATUS).status == UNAUTHORIZED
    assert json.loads(curl("--digest", "-u", "admin:secret", url(daemon, odd)))["power"] == "on"
    with session() as client:
        # Not `//` at the beginning: some versions of requests sign that and send one slash.
        odd = STATUS.replace("/vm/", "//vm//")
        assert client.get(url(daemon, odd), timeout=30).status_code == OK


@pytest.mark.parametrize("nonce", ["1:abc", "x", "1795600000:" + "0" * 32, ":", "9" * 40 + ":a"])
def test_nonce_of_somebody_else_is_renewed_for_who_knows_the_password(
    daemon: Daemon, nonce: str
) -> None:
    """After a restart, for one: browsers then do not ask again."""
    answer = signed(daemon, STATUS, nonce=nonce)
    assert answer.status == UNAUTHORIZED
    assert 'stale="true"' in answer.headers["www-authenticate"]
    assert signed(daemon, STATUS, nonce=nonce_of(answer)).status == OK
    answer = signed(daemon, STATUS, nonce=nonce, password="wrong")  # noqa: S106
    assert "stale" not in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "header",
    ["Digest", "Digest ", "Digest a", "Digest a=", "Digest a=,b", 'Digest username="', "Digest =",
     "Basic", "Basic %%%", "Basic YWRtaW46c2VjcmV0", "Bearer x", "digest username=admin", ",",
     "Digest " + "a=b," * 500, "Digest " + "a=b," * 2000, 'Digest username="\xff\xfe"',
     "Digest username=\t"],
)  # fmt: skip
def test_nonsense_is_no_proof(daemon: Daemon, header: str) -> None:
    answer = daemon.request("GET", STATUS, headers={"Authorization": header})
    assert answer.status == UNAUTHORIZED, answer


def test_other_headers_are_no_proof(daemon: Daemon) -> None:
    good = authorization(STATUS, nonce_of(daemon.get(STATUS)))["Authorization"]
    for name in ("CGI-Authorization", "Proxy-Authorization", "Remote-User", "Login"):
        assert daemon.request("GET", STATUS, headers={name: good}).status == UNAUTHORIZED


def test_wrong_password_is_logged_with_its_address(daemon: Daemon) -> None:
    signed(daemon, STATUS, user="mal\u00f6ry", password="guess")  # noqa: S106
    line = [line for line in daemon.log().splitlines() if "wrong password" in line][-1]
    assert "client=127.0.0.1" in line
    assert "mal" in line
    assert "guess" not in daemon.log()


def test_log_line_is_no_longer_than_a_name(daemon: Daemon) -> None:
    signed(daemon, STATUS, user="x" * 1_000, password="guess")  # noqa: S106
    line = [line for line in daemon.log().splitlines() if "wrong password" in line][-1]
    assert len(line) < 1000


def test_right_password_is_answered_while_a_wrong_one_waits(daemon: Daemon) -> None:
    """Tried several times: on a loaded machine the wait may be over before one looks."""
    nonce = nonce_of(daemon.get(STATUS))
    wrong = authorization(STATUS, nonce, password="wrong")  # noqa: S106

    def overtakes() -> bool:
        logged = daemon.log().count("wrong password")
        guess = executor.submit(daemon.request, "GET", STATUS, None, wrong)
        until(lambda: daemon.log().count("wrong password") > logged, 30, "log line")
        right = client.get(url(daemon, STATUS), timeout=30)
        overtook = not guess.done()
        assert (right.status_code, guess.result(30).status) == (OK, UNAUTHORIZED)
        return overtook

    with ThreadPoolExecutor(1) as executor, session() as client:
        assert any(overtakes() for _ in range(10))


@contextmanager
def guessers(daemon: Daemon, count: int, source: str = "127.0.0.1") -> Iterator[list[int]]:
    """So many who guess from an address, one password after the other; the statuses they get."""
    headers = authorization(STATUS, nonce_of(daemon.get(STATUS)), password="wrong")  # noqa: S106
    stopped, statuses = Event(), []

    def guess() -> None:
        while not stopped.is_set():
            connection = http.client.HTTPConnection(
                "127.0.0.1", daemon.port, timeout=60, source_address=(source, 0)
            )
            # It is cut off at the end.
            with suppress(OSError, http.client.HTTPException), closing(connection):
                open_now.add(connection)
                connection.request("GET", STATUS, headers=headers)
                statuses.append(connection.getresponse().status)
                open_now.discard(connection)

    open_now: set[http.client.HTTPConnection] = set()
    threads = [Thread(target=guess) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stopped.set()
        for connection in list(open_now):
            if connection.sock:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_right_password_is_let_in_beside_60_who_guess_at_the_same_address(daemon: Daemon) -> None:
    logged = daemon.log().count("wrong password")
    start = time.monotonic()
    with guessers(daemon, 60) as statuses:
        until(lambda: daemon.log().count("wrong password") >= logged + 60, 60, "first guesses")
        for _ in range(50):
            # Each knows nothing of the one before.
            with session() as client:
                assert client.get(url(daemon, STATUS), timeout=30).status_code == OK
        # However slow the host is, there are no more than these.
        assert len(statuses) <= 1 + RATE * (time.monotonic() - start)
    assert set(statuses) <= {UNAUTHORIZED}


def test_guessers_keep_no_worker(tmp_path: Path) -> None:
    """With two of them for everybody, neither answered for whole minutes."""
    add_user(tmp_path / "users", "admin", "secret")
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nserver.thread_pool = 2\nservice.event_streams = 0\n")
    arguments = ("--connect", "test:///default", "--users", str(tmp_path / "users"))
    with Daemon(*arguments, "--config", str(file)) as daemon, guessers(daemon, 20, "127.0.0.9"):
        until(lambda: daemon.log().count("wrong password") >= 20, 60, "guesses")
        for _ in range(50):
            assert daemon.get("/healthz").status == OK


def test_guessers_take_the_place_of_no_honest_one(tmp_path: Path) -> None:
    """Where there is no room for all of them: those who wait for the word go first."""
    add_user(tmp_path / "users", "admin", "secret")
    file = tmp_path / "mc.conf"
    file.write_text("[global]\nserver.max_connections = 80\n")
    arguments = ("--connect", "test:///default", "--users", str(tmp_path / "users"))
    with Daemon(*arguments, "--config", str(file)) as daemon, ExitStack() as stack:
        for wire in guesses(daemon, 60):
            stack.callback(wire.close)
        honest = [stack.enter_context(Wire(daemon.port)) for _ in range(20)]
        for wire in honest:
            wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = wire.response()
            assert answer and answer.status == OK


def guesses(daemon: Daemon, count: int) -> list[Wire]:
    """Wrong passwords, all of which have been looked at, and most of which wait for the word."""
    nonce = nonce_of(daemon.get("/"))
    guess = authorization("/", nonce, password="wrong")["Authorization"]  # noqa: S106
    request = f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {guess}\r\n\r\n"
    wires = [Wire(daemon.port) for _ in range(count)]
    for wire in wires:
        wire.send(request.encode())
    until(lambda: daemon.log().count("wrong password") == count, 30, "guesses")
    return wires


def test_guesser_who_hangs_up_leaves_at_once(tmp_path: Path) -> None:
    """Though the answer would have been seconds away."""
    add_user(tmp_path / "users", "admin", "secret")
    with Daemon("--connect", "test:///default", "--users", str(tmp_path / "users")) as daemon:
        first, *others = guesses(daemon, 60)
        for wire in others:
            wire.close()
        files = Path(f"/proc/{daemon.pid}/fd")
        # The last of them would be answered, by the line, after 15 seconds.
        until(lambda: len(list(files.iterdir())) < 40, 8, "closed connections")
        first.close()


def test_of_very_many_wrong_ones_most_are_not_answered_at_all(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "admin", "secret")
    with (
        Daemon("--connect", "test:///default", "--users", str(tmp_path / "users")) as daemon,
        ExitStack() as stack,
    ):
        guess = authorization("/", nonce_of(daemon.get("/")), password="wrong")  # noqa: S106
        request = (
            f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {guess['Authorization']}\r\n"
        )
        start = time.monotonic()
        wires = [stack.enter_context(Wire(daemon.port)) for _ in range(150)]
        for wire in wires:
            wire.send(request.encode() + b"\r\n")
        answers = [wire.response() for wire in wires]
        assert {answer.status for answer in answers if answer} == {UNAUTHORIZED}
        assert answers.count(None) > 20
        answered = len(answers) - answers.count(None)
        # Two seconds' worth may be in line already when the first is answered.
        assert RATE < answered <= RATE * (time.monotonic() - start + 2)


def test_nobody_learns_which_accounts_there_are(daemon: Daemon) -> None:
    nonce = nonce_of(daemon.get(STATUS))
    answers = [
        signed(daemon, STATUS, nonce=nonce, user=user, password="x")  # noqa: S106
        for user in ("admin", "nobody")
    ]
    assert len({answer.body for answer in answers}) == 1
    assert len({answer.status for answer in answers}) == 1


def test_accounts_are_read_again_and_nobody_gets_in_while_they_cannot_be(
    folder: Path, daemon: Daemon
) -> None:
    users = folder / "users"
    add_user(users, "new", "password")
    with session("new", "password") as client:
        assert client.get(url(daemon, STATUS), timeout=30).status_code == OK
        users.chmod(0o644)
        answer = client.get(url(daemon, STATUS), timeout=30)
        assert answer.status_code == UNAVAILABLE
        assert str(folder) not in answer.text
        assert "nobody gets in" in daemon.log()
        users.chmod(0o600)
        assert client.get(url(daemon, STATUS), timeout=30).status_code == OK


@pytest.mark.parametrize("change", ["removed", "another password"])
def test_stream_ends_with_the_account(tmp_path: Path, change: str) -> None:
    users = tmp_path / "users"
    add_user(users, "admin", "secret")
    before = users.read_text()
    add_user(users, "watch", "secret")
    with (
        Daemon("--connect", "test:///default", "--users", str(users)) as daemon,
        session("watch", "secret") as client,
        client.get(url(daemon, "/events"), stream=True, timeout=30) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == b"retry: 1000"
        if change == "removed":
            users.write_text(before)
        else:
            add_user(users, "watch", "another")
        # A sign of life comes every ten seconds.
        assert len(list(islice(lines, 20))) < 20


def test_slow_answers_do_not_hold_up_the_end(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "admin", "secret")
    with Daemon("--connect", "test:///default", "--users", str(tmp_path / "users")) as daemon:
        nonce = nonce_of(daemon.get("/"))
        wrong = authorization("/", nonce, password="wrong")  # noqa: S106
        for _ in range(5):
            daemon.request("GET", "/", headers=wrong)
        with ThreadPoolExecutor(4) as executor:
            late = [executor.submit(daemon.request, "GET", "/", None, wrong) for _ in range(4)]
            until(lambda: daemon.log().count("wrong password") >= 9, 30, "late answers")
            os.kill(daemon.pid, 15)
            assert {one.result(60).status for one in late} == {UNAUTHORIZED}
        daemon.process.wait(60)
