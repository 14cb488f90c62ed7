"""Who may call: hosts, foreign pages, prefetches, and the headers of every answer."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Answer, Daemon
from tests.hypervisor import hypervisor

OK, FORBIDDEN, MISDIRECTED = 200, 403, 421
STATUS = "/service/vm/state_controller/status"
OFF = "/service/vm/state_controller/force_off"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("guard")
    uri = hypervisor(folder / "machines.xml", [("vm", "running")])
    (folder / "mc.conf").write_text('[global]\nserver.names = ["Lab.example.org", "lab"]\n')
    with Daemon("--connect", uri, "--config", str(folder / "mc.conf")) as daemon:
        yield daemon


def get(daemon: Daemon, path: str, **headers: str) -> Answer:
    """A request with headers whose names have `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return daemon.request("GET", path, headers=named)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:9001", "[::1]", "[::1]:9001", "10.1.2.3",
     "[fe80::1]", "lab.example.org", "LAB.EXAMPLE.ORG.", "lab:443", "localhost.",
     socket.gethostname()],
)  # fmt: skip
def test_host_that_is_this_one(daemon: Daemon, host: str) -> None:
    assert get(daemon, STATUS, Host=host).status == OK


@pytest.mark.parametrize(
    "host",
    ["evil.example", "lab.example.org.evil.example", "127.0.0.1.evil.example",
     "localhost.evil.example", "evil.example:9001", "", "a@localhost:b", "[::1", "localhost:x",
     "1.2.3", "0x7f.1", "evil.example@localhost", "localhost@localhost", "localhost/", "localhost#",
     "localhost?x", "[::1]x", "localhost:1:2", "other", "evil.example/localhost", "example.org"],
)  # fmt: skip
def test_foreign_host_is_refused_for_everything(daemon: Daemon, host: str) -> None:
    before = len(daemon.virsh_commands())
    for path in ("/", STATUS, OFF, "/nope"):
        answer = get(daemon, path, Host=host)
        assert answer.status == MISDIRECTED, answer
        assert answer.headers["content-type"] == "application/problem+json"
    assert daemon.virsh_commands()[before:] == []


def test_answer_repeats_no_more_of_a_host_than_a_name_may_have(daemon: Daemon) -> None:
    answer = get(daemon, "/", Host="x" * 8_000)
    assert (answer.status, len(answer.body) < 1000) == (MISDIRECTED, True)


def raw(daemon: Daemon, request: str) -> bytes:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as connection:
        connection.sendall(request.encode())
        return connection.recv(1 << 16)


def test_host_in_the_request_line_counts_too(daemon: Daemon) -> None:
    """RFC 9112, section 3.2.2: a whole URI there is stronger than the header."""
    line = "GET http://{}" + STATUS + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert raw(daemon, line.format("evil.example")).startswith(b"HTTP/1.1 421")
    assert raw(daemon, line.format("localhost:80")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "uri", ["http://[::1", "http://[::1/service", "//[x]/", "http://", "x:", "*"]
)
def test_request_line_that_is_no_uri_is_the_clients_fault(daemon: Daemon, uri: str) -> None:
    head = raw(daemon, f"GET {uri} HTTP/1.1\r\nHost: localhost\r\n\r\n").split(b"\r\n")[0]
    assert head.split(b" ")[1] in (b"400", b"404", b"421")


@pytest.mark.parametrize("header", ["Sec-Fetch-Site", "Origin", "Referer", "Sec-Purpose"])
def test_second_header_does_not_overrule_the_first(daemon: Daemon, header: str) -> None:
    twice = f"{header}: cross-site\r\n{header}: none\r\n"
    head = raw(daemon, f"GET {OFF} HTTP/1.1\r\nHost: localhost\r\n{twice}\r\n").split(b"\r\n")[0]
    assert head.split(b" ")[1] == b"400"


def test_http_1_0_may_leave_the_host_out(daemon: Daemon) -> None:
    assert raw(daemon, f"GET {STATUS} HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
FOREIGN = [
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
    {"Sec_Fetch_Site": "nonsense"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://lab"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Origin": "nonsense"},
    {"Origin": "http://[::1"},
    {"Origin": "ftp://127.0.0.1"},
    {"Origin": "//127.0.0.1"},
    {"Referer": "http://evil.example/page"},
    {"Referer": "http://evil.example/127.0.0.1:9001/"},
    {"Sec_Purpose": "prefetch;prerender"},
    {"Sec_Purpose": "prefetch"},
    {"Purpose": "prefetch"},
    {"Purpose": "Prefetch"},
    {"X_Moz": "prefetch"},
    {"Sec_Purpose": "prerender"},
    {"Purpose": "preview"},
    {"X_Purpose": "preview"},
    {"User_Agent": BROWSER, "Host": "0.0.0.0"},
    {"User_Agent": BROWSER, "Host": "[::ffff:127.0.0.1]"},
    {"User_Agent": BROWSER, "Host": f"{socket.gethostname()}:9001"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_a_foreign_page_or_a_prefetch_causes_does_not_act(
    daemon: Daemon, headers: dict[str, str], method: str
) -> None:
    before = len(daemon.virsh_commands())
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = daemon.request(method, OFF, headers=named)
    assert answer.status == FORBIDDEN, answer
    assert (
        daemon.request("PUT", "/service/vm/boot", b'{"device": "disk"}', named).status == FORBIDDEN
    )
    assert daemon.virsh_commands()[before:] == []
    assert daemon.request("GET", STATUS, headers=named).status == OK


def test_what_a_person_causes_acts(daemon: Daemon) -> None:
    own = f"http://127.0.0.1:{daemon.port}"
    for headers in (
        {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"},
        {"Sec_Fetch_Site": "same-origin", "Origin": own, "Referer": f"{own}/"},
        {"Origin": own.upper().replace("HTTP", "http")},
        {"Purpose": "something"},
        {"Origin": "http://localhost", "Host": "localhost:80"},
        {"Origin": "https://localhost", "Host": "localhost:443"},
        {"Origin": "https://lab", "Host": "lab"},
        {"User_Agent": BROWSER},
        {"User_Agent": BROWSER, "Host": "localhost.:9001"},
        {"User_Agent": BROWSER, "Host": "[::1]"},
        {"User_Agent": BROWSER, "Host": "lab.example.org"},
        {"User_Agent": BROWSER, "Host": "0.0.0.0", "Referer": "http://0.0.0.0/"},
        {"User_Agent": "curl/8", "Host": socket.gethostname()},
    ):
        assert get(daemon, OFF, **headers).status == OK


def test_header_with_an_underscore_is_no_other_header(daemon: Daemon) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec_Fetch_Site": "none"}
    assert daemon.request("GET", OFF, headers=headers).status == FORBIDDEN


SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "server": "libvirt_http_mc",
}


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {}),
        ("HEAD", "/", {}),
        ("OPTIONS", STATUS, {}),
        ("GET", STATUS, {}),
        ("GET", OFF, {}),
        ("GET", "/nope", {}),
        ("BREW", "/", {}),
        ("GET", "/", {"Host": "evil.example"}),
        ("GET", OFF, {"Sec-Fetch-Site": "cross-site"}),
        ("GET", "/", {"Transfer-Encoding": "gzip"}),
        ("GET", "/" + "a" * 70_000, {}),
        ("GET", "/service/vm?x=%ff", {}),
    ],
)
def test_every_answer_has_the_headers_and_tells_no_version(
    daemon: Daemon, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = daemon.request(method, path, headers=headers)
    assert {name: answer.headers.get(name) for name in SECURITY} == SECURITY
    text = f"{answer.headers}{answer.body!r}".lower()
    assert not any(word in text for word in ("cherrypy", "cheroot", "python"))


def test_names_are_read_from_the_settings(tmp_path: Path) -> None:
    with Daemon("--connect", "test:///default") as daemon:
        assert get(daemon, "/", Host="lab").status == MISDIRECTED
