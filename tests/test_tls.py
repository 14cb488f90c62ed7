"""HTTPS: who gets in by what, which versions, and what is no TLS at all."""

import base64
import http.client
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

import pytest
import requests
from requests.auth import HTTPBasicAuth, HTTPDigestAuth

from mc.users import add_user
from tests.certificate import certificate
from tests.daemon import PROGRAM, Daemon
from tests.stranger import processor_time

OK, BAD_REQUEST, UNAUTHORIZED = 200, 400, 401
T = TypeVar("T")
STATUS = "/service/test/state_controller/status"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder)
    os.mkfifo(folder / "pipe")
    for name, kind in (("other", ["RSA"]), ("elliptic", ["EC", "-pkeyopt", "group:P-256"])):
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", *kind, "-out", folder / f"{name}.pem"],
            capture_output=True,
            check=True,
        )
    add_user(folder / "users", "admin", "secret")
    return folder


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[Daemon]:
    tls = (f"--tls-cert={folder}/cert.pem", f"--tls-key={folder}/key.pem")
    with Daemon("--connect", "test:///default", f"--users={folder}/users", *tls) as daemon:
        yield daemon


def url(daemon: Daemon, path: str = STATUS) -> str:
    return f"https://localhost:{daemon.port}{path}"


def test_announcement_says_https(daemon: Daemon) -> None:
    assert daemon.announcement.startswith("libvirt_mc: serving https://127.0.0.1:")


@pytest.mark.parametrize("how", [HTTPDigestAuth, HTTPBasicAuth])
def test_requests_gets_in_by_digest_and_by_basic(
    daemon: Daemon, folder: Path, how: type[HTTPDigestAuth | HTTPBasicAuth]
) -> None:
    with requests.Session() as client:
        client.trust_env = False
        client.verify = str(folder / "cert.pem")
        client.auth = how("admin", "secret")
        for _ in range(3):
            assert client.get(url(daemon), timeout=30).json()["power"] == "on"
        client.auth = how("admin", "wrong")
        assert client.get(url(daemon), timeout=30).status_code == UNAUTHORIZED


@pytest.mark.parametrize("how", ["--digest", "--basic", "--anyauth"])
def test_curl_gets_in(daemon: Daemon, folder: Path, how: str) -> None:
    done = subprocess.run(
        ["curl", "--silent", "--max-time", "30", "--cacert", folder / "cert.pem", how,
         "-u", "admin:secret", url(daemon)],
        stdin=subprocess.DEVNULL, capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["power"] == "on"


def test_challenge_offers_both(daemon: Daemon, folder: Path) -> None:
    answer = requests.get(url(daemon), verify=str(folder / "cert.pem"), timeout=30)
    assert answer.status_code == UNAUTHORIZED
    assert answer.headers["www-authenticate"].startswith("Digest realm=")
    assert answer.headers["www-authenticate"].endswith('Basic realm="libvirt_mc"')


def shake_hands(daemon: Daemon, version: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return connection.version()


def test_tls_is_1_2_at_least(daemon: Daemon) -> None:
    assert shake_hands(daemon, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert shake_hands(daemon, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with (
        pytest.warns(DeprecationWarning, match=r"TLSVersion\.TLSv1_1"),
        pytest.raises(ssl.SSLError),
    ):
        shake_hands(daemon, ssl.TLSVersion.TLSv1_1)


def test_plain_http_is_told_so(daemon: Daemon) -> None:
    answer = daemon.get(STATUS)
    assert (answer.status, answer.json["status"]) == (BAD_REQUEST, BAD_REQUEST)
    assert "HTTPS" in answer.json["detail"]


def test_clients_that_do_not_shake_hands_keep_nobody_waiting(daemon: Daemon, folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    silent = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(200)]
    halfway = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(50)]
    for one in halfway:
        one.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    try:
        for _ in range(5):
            connection = http.client.HTTPSConnection(
                "localhost", daemon.port, timeout=30, context=context
            )
            connection.request("GET", STATUS)
            assert connection.getresponse().status == UNAUTHORIZED
            connection.close()
        nonsense = halfway[0]
        nonsense.sendall(b"nonsense" * 200)
        nonsense.settimeout(30)
        with suppress(ConnectionResetError):
            while nonsense.recv(1 << 10):
                pass
    finally:
        for one in silent + halfway:
            one.close()


def test_long_answers_and_many_requests_on_one_connection(daemon: Daemon, folder: Path) -> None:
    with requests.Session() as client:
        client.trust_env = False
        client.verify = str(folder / "cert.pem")
        client.auth = HTTPBasicAuth("admin", "secret")
        for number in range(50):
            path = "/service/test/boot" if number % 2 else STATUS
            assert client.get(url(daemon, path), timeout=30).status_code == OK
        body = {"device": "disk", "once": False}
        answer = client.put(url(daemon, "/service/test/boot"), json=body, timeout=30)
        assert answer.status_code == OK


@pytest.mark.parametrize(
    ("cert", "key", "at_fault", "words"),
    [
        ("missing.pem", "key.pem", "missing.pem", "No such file or directory"),
        ("cert.pem", "missing.pem", "missing.pem", "No such file or directory"),
        ("key.pem", "cert.pem", "key.pem", "it holds no certificate in PEM"),
        ("users", "key.pem", "users", "it holds no certificate in PEM"),
        ("cert.pem", "users", "users", "it holds no private key in PEM"),
        ("cert.pem", "pipe", "pipe", "it is not a file"),
        ("pipe", "key.pem", "pipe", "it is not a file"),
        (".", "key.pem", ".", "Is a directory"),
        ("cert.pem", "other.pem", "other.pem", "it is not the key of "),
        ("cert.pem", "elliptic.pem", "elliptic.pem", "it is not the key of "),
    ],
)
def test_bad_certificate_is_refused_at_the_start(
    folder: Path, cert: str, key: str, at_fault: str, words: str
) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, "--listen=127.0.0.1:0", "--connect=test:///default",
         f"--tls-cert={folder / cert}", f"--tls-key={folder / key}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    option, path = ("--tls-cert", cert) if at_fault == cert else ("--tls-key", key)
    assert line.startswith(f"libvirt_mc: {option}: {folder / path}: {words}")
    assert "Traceback" not in done.stderr
    assert not re.search(r"Errno|_ssl\.c|PEM lib", line)


def test_answers_that_are_read_late_come_whole(daemon: Daemon, folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    request = (
        b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Basic %s\r\n\r\n" % base64.b64encode(b"admin:secret")
    )
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(60)
        plain.connect(("127.0.0.1", daemon.port))
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            for _ in range(80):
                client.sendall(request)
            # The last one is answered when the client has taken what the system cannot hold.
            client.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            received = b"".join(iter(lambda: client.recv(1 << 16), b""))
    first, *others = received.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert json.loads(first.partition(b"\r\n\r\n")[2])["openapi"]
    bodies = [one.partition(b"\r\n\r\n")[2] for one in (first, *others)]
    assert bodies == [bodies[0]] * 81


def test_encrypted_key_is_refused(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", folder / "key.pem",
         "-out", key],
        capture_output=True, check=True,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, PROGRAM, "--connect=test:///default", "--listen=127.0.0.1:0",
         f"--tls-cert={folder}/cert.pem", f"--tls-key={key}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "the private key is encrypted" in done.stderr
    assert "Traceback" not in done.stderr


def test_clients_that_reset_leave_no_trace(daemon: Daemon, folder: Path) -> None:
    """At each moment of a connection: before, in and after the handshake, and in a request."""
    start = daemon.log_size()
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40
    for data in (b"", b"\x16", hello, b"\x16\x03\x01\x00\x05hello", b"\0" * 100, b"GET / HTTP/1.1"):
        with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
            connection.sendall(data)
            reset(connection)
    for data in (b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50):
        connection = context.wrap_socket(
            socket.create_connection(("127.0.0.1", daemon.port)), server_hostname="localhost"
        )
        connection.sendall(data)
        reset(connection)
    health = requests.get(url(daemon, "/healthz"), verify=str(folder / "cert.pem"), timeout=30)
    assert health.status_code == OK
    assert "Traceback" not in daemon.log(start)
    assert not any(level in daemon.log(start) for level in (" ERROR ", " WARNING "))


def reset(connection: socket.socket) -> None:
    """Close it in such a way that the other side is told of an error."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(("scheme", "status"), [("https", OK), ("http", 403)])
def test_page_that_came_without_tls_must_not_act(
    daemon: Daemon, folder: Path, scheme: str, status: int
) -> None:
    """Anybody on its way may have changed it."""
    page = f"{scheme}://localhost:{daemon.port}"
    for header in ({"Origin": page}, {"Referer": f"{page}/"}):
        answer = requests.post(
            url(daemon, "/service/test/state_controller/power_on"),
            headers=header,
            auth=HTTPBasicAuth("admin", "secret"),
            verify=str(folder / "cert.pem"),
            timeout=30,
        )
        assert answer.status_code == status


class Records:
    """A client that says what it says in records of a size of its choice."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._socket = socket.create_connection(("127.0.0.1", daemon.port), timeout=60)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._until_done(self._tls.do_handshake)

    def _until_done(self, act: Callable[[], T]) -> T:
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                self._socket.sendall(self._out.read())
                data = self._socket.recv(1 << 16)
                self._in.write(data) if data else self._in.write_eof()

    def send(self, data: bytes, size: int) -> None:
        for start in range(0, len(data), size):
            self._tls.write(data[start : start + size])
        self._socket.sendall(self._out.read())

    def receive(self) -> bytes:
        return self._until_done(lambda: self._tls.read(1 << 16))

    def close(self) -> None:
        self._socket.close()


def request_of(size: int) -> bytes:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "
    return head + b"a" * (size - len(head) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("length", "size"), [(200, 1), (200, 7), (100_000, 200), (100_000, 16_000), (130_000, 16_384)]
)
def test_request_may_come_in_records_of_any_size(
    daemon: Daemon, folder: Path, length: int, size: int
) -> None:
    with closing(Records(daemon, folder)) as client:
        for _ in range(3):
            client.send(request_of(length), size)
            assert client.receive().startswith(b"HTTP/1.1 200")


def test_records_in_which_next_to_nothing_is_said_are_not_read_for_ever(
    daemon: Daemon, folder: Path
) -> None:
    """140,000 records, which a client can make in advance: they cost no more than some requests."""

    def plain() -> None:
        with closing(Records(daemon, folder)) as client:
            client.send(request_of(200), 16_000)
            assert client.receive()

    plain()
    before = processor_time(daemon)
    for _ in range(10):
        plain()
    ten = processor_time(daemon) - before
    client = Records(daemon, folder)
    start = daemon.log_size()
    before = processor_time(daemon)
    with closing(client), suppress(OSError, ssl.SSLError):
        client.send(request_of(140_000), 1)
        client.receive()
    assert processor_time(daemon) - before < 10 * ten
    assert daemon.log(start) == ""


def test_refusal_is_read_by_a_client_that_is_still_sending(daemon: Daemon, folder: Path) -> None:
    head = b"PUT /service HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
    for size in (16_384, 16_000, 1_000):
        with closing(Records(daemon, folder)) as client:
            client.send(head, size)
            for _ in range(20):
                client.send(b"x" * 100_000, size)
            assert client.receive().startswith(b"HTTP/1.1 413")
