"""Behind nginx, by the lines that the README gives: who asks is who asks nginx."""

import http.client
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from requests.auth import HTTPBasicAuth, HTTPDigestAuth

from mc.users import add_user
from tests.certificate import certificate
from tests.daemon import Daemon
from tests.digest import authorization, nonce_of
from tests.hypervisor import hypervisor
from tests.lab import until
from tests.ports import reserved_port

README = Path(__file__).parent.parent / "README.md"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
STATUS = "/service/vm/state_controller/status"
OFF = "/service/vm/state_controller/force_off"
OK, UNAUTHORIZED, FORBIDDEN = 200, 401, 403
CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    upstream controller {{ server 127.0.0.1:{daemon}; keepalive 4; }}
    server {{ listen 127.0.0.1:{plain}; {location} }}
    server {{ listen 127.0.0.1:{unbuffered}; proxy_request_buffering off; {location} }}
    server {{
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
        {location}
    }}
}}
"""


@dataclass(frozen=True)
class Front:
    """A daemon, and the ports of the nginx in front of it."""

    daemon: Daemon
    plain: int
    unbuffered: int
    tls: int
    folder: Path


def is_open(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("proxy")
    certificate(folder)
    add_user(folder / "users", "admin", "secret")
    add_user(folder / "users", "other", "secret")
    uri = hypervisor(folder / "machines.xml", [("vm", "running")])
    (folder / "mc.conf").write_text('[global]\nserver.trusted_proxies = ["127.0.0.1"]\n')
    arguments = ("--config", str(folder / "mc.conf"), "--users", str(folder / "users"))
    found = re.search(r"^```nginx\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found and NGINX
    with (
        reserved_port() as plain,
        reserved_port() as unbuffered,
        reserved_port() as tls,
        Daemon("--connect", uri, *arguments) as daemon,
    ):
        (folder / "nginx.conf").write_text(
            CONFIGURATION.format(
                folder=folder,
                daemon=daemon.port,
                plain=plain,
                unbuffered=unbuffered,
                tls=tls,
                location=found[1].replace("http://127.0.0.1:9001", "http://controller"),
            )
        )
        command = [NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as nginx:
            try:
                ports = (plain, unbuffered, tls)
                until(lambda: all(map(is_open, ports)), 30, "nginx")
                yield Front(daemon, *ports, folder)
            finally:
                nginx.terminate()


def ask(
    port: int, path: str, headers: dict[str, str] | None = None, source: str = "127.0.0.1"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=60, source_address=(source, 0)
    )
    with closing(connection):
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def signed(front: Front, path: str, password: str = "secret", **more: str) -> dict[str, str]:  # noqa: S107
    return authorization(path, nonce_of(front.daemon.get("/")), password=password) | more


def test_log_names_the_client_of_the_proxy(front: Front) -> None:
    """Whatever the client says of itself."""
    start = front.daemon.log_size()
    forged = {"X-Forwarded-For": "198.51.100.9", "X-Forwarded-Proto": "https"}
    assert ask(front.plain, OFF, signed(front, OFF, **forged), "127.0.0.7")[0] == OK
    wrong = signed(front, OFF, "wrong", **forged)
    assert ask(front.plain, OFF, wrong, "127.0.0.8")[0] == UNAUTHORIZED
    log = front.daemon.log(start)
    assert "force_off client=127.0.0.7 user=admin" in log
    assert 'wrong password: client=127.0.0.8 user="admin"' in log
    assert "198.51.100.9" not in log


def test_who_is_no_proxy_is_not_believed(front: Front) -> None:
    start = front.daemon.log_size()
    forged = {"X-Forwarded-For": "198.51.100.9", "X-Forwarded-Proto": "https"}
    wrong = signed(front, OFF, "wrong", **forged)
    assert ask(front.daemon.port, OFF, wrong, "127.0.0.6")[0] == UNAUTHORIZED
    assert "wrong password: client=127.0.0.6" in front.daemon.log(start)


def test_basic_is_for_those_who_came_to_the_proxy_over_tls(front: Front) -> None:
    basic = HTTPBasicAuth("admin", "secret")
    with requests.Session() as client:
        client.trust_env = False
        client.verify = str(front.folder / "cert.pem")
        assert (
            client.get(f"https://localhost:{front.tls}/", auth=basic, timeout=30).status_code == OK
        )
        for url in (f"http://localhost:{front.plain}/", f"http://localhost:{front.daemon.port}/"):
            answer = client.get(url, auth=basic, headers={"X-Forwarded-Proto": "https"}, timeout=30)
            assert answer.status_code == (UNAUTHORIZED if str(front.plain) in url else OK)


def test_page_of_the_same_name_and_port_acts_and_another_does_not(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.folder / "cert.pem"))
    for origin, status in (
        (f"https://localhost:{front.tls}", OK),
        ("https://evil.example", FORBIDDEN),
    ):
        connection = http.client.HTTPSConnection(
            "localhost", front.tls, timeout=60, context=context
        )
        with closing(connection):
            connection.request("GET", OFF, headers=signed(front, OFF, Origin=origin))
            assert connection.getresponse().status == status


def test_each_client_of_the_proxy_gets_the_answer_to_its_question(front: Front) -> None:
    """Over few connections to the controller, which all of them share."""

    def asked(number: int) -> bool:
        path = f"/service/nobody-{number}"
        user = "admin" if number % 2 else "other"
        headers = authorization(path, nonce, user=user)
        status, body = ask(front.plain, path, headers, f"127.0.1.{number % 200 + 1}")
        return status == 404 and f"'nobody-{number}'".encode() in body

    nonce = nonce_of(front.daemon.get("/"))
    with ThreadPoolExecutor(16) as executor:
        assert all(executor.map(asked, range(400)))


@pytest.mark.parametrize("whole", [True, False])
def test_body_in_chunks_comes_through(front: Front, whole: bool) -> None:
    """As a whole with a length, or in chunks as it comes; and the next one after it."""
    path = "/service/vm/state_controller/power_off"
    nonce = nonce_of(front.daemon.get("/"))
    port = front.plain if whole else front.unbuffered
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with closing(connection):
        for wait in (b"-1", b"0", b"-1", b"0"):
            headers = authorization(path, nonce, method="POST")
            pieces = iter([b'{"wait"', b": ", wait, b', "force": true}'])
            connection.request("POST", path, pieces, headers, encode_chunked=True)
            answer = connection.getresponse()
            assert answer.status == (400 if wait == b"-1" else OK), answer.read()
            answer.read()


def test_slash_too_many_comes_through(front: Front) -> None:
    for path in ("/" + STATUS, STATUS.replace("/", "//"), STATUS + "//"):
        assert ask(front.plain, path, signed(front, path))[0] == OK


def test_who_is_signed_in_signs_in_nobody_else_on_the_same_connection(front: Front) -> None:
    with requests.Session() as client:
        client.trust_env = False
        client.auth = HTTPDigestAuth("admin", "secret")
        url = f"http://127.0.0.1:{front.plain}{STATUS}"
        for _ in range(20):
            assert client.get(url, timeout=30).status_code == OK
            assert ask(front.plain, STATUS)[0] == UNAUTHORIZED
