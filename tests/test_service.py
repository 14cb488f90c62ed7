"""Every URL, verb and state, over HTTP, on the embedded test hypervisor."""

import json
import shlex
import socket
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest

from mc.machine.verbs import VERBS
from mc.web.routes import routes
from mc.web.service.controller import Controller
from mc.web.service.resources import ALL_VERBS
from tests.daemon import Answer, Daemon
from tests.hypervisor import STATES, hypervisor, uuid_of
from tests.wire import Wire

OK, BAD_REQUEST, NOT_FOUND, NOT_ALLOWED, CONFLICT = 200, 400, 404, 405, 409
NMI = "/service/vm/state_controller/nmi"

# What a verb makes of a machine in each state: the state after it, `=` where nothing was done,
# or 409. The embedded hypervisor cannot wake a suspended machine, forgets a pause when it
# reboots, and leaves a machine `in shutdown` for ever.
# fmt: off
OUTCOMES: dict[str, dict[str, str]] = {
    verb: dict(zip(
        ("running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended"),
        outcomes, strict=True,
    ))
    for verb, outcomes in {
        "cyclepower": ("shut off", "shut off", "409", "=in shutdown", "running", "running", "409"),
        "power_on": ("=running", "=idle", "running", "409", "running", "running", "409"),
        "power_off": ("shut off", "shut off", "409", "=in shutdown", "=shut off", "409", "409"),
        "force_off": ("shut off", "shut off", "shut off", "shut off", "=shut off", "shut off",
                      "shut off"),
        "power_cycle": ("running", "running", "running", "running", "409", "running", "running"),
        "reboot": ("running", "running", "running", "409", "409", "409", "409"),
        "force_reset": ("running", "idle", "paused", "running", "409", "running", "running"),
        "force_reboot": ("running", "idle", "paused", "running", "409", "running", "running"),
        "nmi": ("running", "idle", "paused", "in shutdown", "409", "crashed", "pmsuspended"),
    }.items()
}
# fmt: on
CELLS = [(verb, state) for verb, outcomes in OUTCOMES.items() for state in outcomes]

INDEX = [
    "boot",
    "events",
    "hosts",
    "machine",
    "machines",
    "openapi",
    "screenshot",
    "status",
    "verbs",
]
# Every URL with the methods that it answers, and what a GET says: those that each host has as well,
# and then all.
FOR_A_HOST: dict[str, tuple[str, list[str]]] = {
    "/service": ("GET, HEAD, OPTIONS", INDEX),
    "/service/machine": ("GET, HEAD, OPTIONS", []),
    "/service/machines": ("GET, HEAD, OPTIONS", []),
    "/service/{machine}": ("GET, HEAD, OPTIONS", ["host", "id", "name", "power", "state", "uuid"]),
    "/service/{machine}/boot": ("GET, HEAD, PUT, OPTIONS", ["default", "once", "order", "pending"]),
    "/service/{machine}/state_controller": (
        "GET, HEAD, OPTIONS",
        ["host", "machine", "uuid", "verbs"],
    ),
    "/service/{machine}/state_controller/status": (
        "GET, HEAD, OPTIONS",
        ["power", "reason", "state"],
    ),
    "/healthz": ("GET, HEAD, OPTIONS", ["backups", "libvirt", "status", "version"]),
    "/metrics": ("GET, HEAD, OPTIONS", []),
    "/service/{machine}/screenshot": ("GET, HEAD, OPTIONS", []),
    "/events": ("GET, OPTIONS", []),
    "/service/{machine}/force_reset": ("GET, POST, OPTIONS", []),
    **{
        f"/service/{{machine}}/state_controller/{verb}": ("GET, POST, OPTIONS", [])
        for verb in (*ALL_VERBS, "{verb}")
    },
}
URLS: dict[str, tuple[str, list[str]]] = {
    "/": ("GET, HEAD, OPTIONS", INDEX),
    "/openapi.json": ("GET, HEAD, OPTIONS", ["components", "info", "openapi", "paths"]),
    "/hosts": ("GET, HEAD, OPTIONS", []),
    "/hosts/{host}": ("GET, HEAD, OPTIONS", ["machines", "name", "since", "state", "url"]),
    **FOR_A_HOST,
    **{f"/hosts/{{host}}{url}": row for url, row in FOR_A_HOST.items()},
}


JSON_URLS = [
    url for url in URLS if "HEAD" in URLS[url][0] and not url.endswith(("/screenshot", "/metrics"))
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A machine for each cell of the table, called `VERB-STATE`, and some more."""
    machines = [(f"{verb}-{state}", state) for verb, state in CELLS]
    machines += [(f"post-{verb}", "paused") for verb in VERBS]
    machines += [(f"head-{verb}", "running") for verb in VERBS]
    machines += [("vm", "running"), ("off", "shut off"), ("machine", "running")]
    machines += [(f"spare-{number}", "running") for number in range(8)]
    file = tmp_path_factory.mktemp("service") / "machines.xml"
    with Daemon("--connect", hypervisor(file, machines)) as daemon:
        yield daemon


def url_of(template: str) -> str:
    """The URL of a machine that is there, on the only host."""
    return template.replace("{host}", "local").replace("{machine}", "spare-0")


def problem(answer: Answer, status: int) -> Any:
    """The members of a problem document, after a look at its form (RFC 9457)."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    members = answer.json
    assert members["status"] == status
    assert members["title"] == HTTPStatus(status).phrase
    assert members["detail"]
    return members


def test_every_verb_and_state_stands_in_the_table() -> None:
    assert set(OUTCOMES) == set(VERBS)
    assert all(set(outcomes) == set(STATES) for outcomes in OUTCOMES.values())


def test_every_url_stands_in_the_table() -> None:
    templates = {
        route.template: route.resource
        for route in routes(cast(Controller, None))
        # The files of the console page have tests of their own.
        if not route.template.startswith("/console/")
    }
    assert set(URLS) == set(templates)
    for template, resource in templates.items():
        assert ", ".join(resource.methods()) == URLS[template][0]


@pytest.mark.parametrize(("verb", "state"), CELLS)
def test_verb_in_state(daemon: Daemon, verb: str, state: str) -> None:
    name = f"{verb}-{state}"
    expected = OUTCOMES[verb][state]
    answer = daemon.act(name, verb)
    if expected == "409":
        members = problem(answer, CONFLICT)
        assert members["uuid"] == uuid_of(CELLS.index((verb, state)))
        assert daemon.status(name)["state"] == state
        return
    after = expected.removeprefix("=")
    assert answer.status == OK, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "host": "local",
        "machine": name,
        "uuid": uuid_of(CELLS.index((verb, state))),
        "action": verb,
        "changed": not expected.startswith("="),
        "state": after,
        "power": "off" if after == "shut off" else "on",
        "reason": answer.json["reason"],
    }
    assert daemon.status(name) == {key: answer.json[key] for key in ("state", "power", "reason")}


@pytest.mark.parametrize("verb", VERBS)
def test_post_does_what_get_does(daemon: Daemon, verb: str) -> None:
    answer = daemon.post(f"/service/post-{verb}/state_controller/{verb}")
    expected = OUTCOMES[verb]["paused"]
    assert answer.status == (CONFLICT if expected == "409" else OK)
    after = "paused" if expected == "409" else expected
    assert daemon.status(f"post-{verb}")["state"] == after


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW"])
def test_no_other_method_acts(daemon: Daemon, verb: str, method: str) -> None:
    before = len(daemon.virsh_commands())
    answer = daemon.request(method, f"/service/head-{verb}/state_controller/{verb}")
    assert answer.status == (HTTPStatus.NO_CONTENT if method == "OPTIONS" else NOT_ALLOWED)
    assert answer.headers["allow"] == "GET, POST, OPTIONS"
    assert daemon.virsh_commands()[before:] == []


@pytest.mark.parametrize("template", URLS)
def test_url_names_its_methods(daemon: Daemon, template: str) -> None:
    allowed, _ = URLS[template]
    url = url_of(template)
    options = daemon.request("OPTIONS", url)
    assert (options.status, options.headers["allow"]) == (HTTPStatus.NO_CONTENT, allowed)
    refused = daemon.request("DELETE", url)
    problem(refused, NOT_ALLOWED)
    assert refused.headers["allow"] == allowed
    head = daemon.request("HEAD", url)
    assert (head.status, head.body) == (OK if "HEAD" in allowed else NOT_ALLOWED, b"")


@pytest.mark.parametrize("template", JSON_URLS)
def test_url_answers(daemon: Daemon, template: str) -> None:
    members = URLS[template][1]
    url = url_of(template)
    answer = daemon.get(url)
    assert answer.status == OK, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert set(members) <= set(answer.json) if members else isinstance(answer.json, list)
    assert daemon.get(url + "/").status == OK


def test_list_is_by_name_and_complete(daemon: Daemon) -> None:
    machines = daemon.get("/service/machine").json
    assert machines == daemon.get("/service/machines").json
    names = [machine["name"] for machine in machines]
    assert names == sorted(names)
    assert {"vm", "off", "machine"} < set(names)
    off = next(machine for machine in machines if machine["name"] == "off")
    assert off == daemon.get("/service/off").json
    assert (off["id"], off["state"], off["power"]) == (None, "shut off", "off")
    vm = next(machine for machine in machines if machine["name"] == "vm")
    assert isinstance(vm["id"], int)
    assert (vm["state"], vm["power"]) == ("running", "on")


def test_machine_by_its_uuid_however_written(daemon: Daemon) -> None:
    machine = daemon.get("/service/vm").json
    for uuid in (machine["uuid"], machine["uuid"].upper(), machine["uuid"].replace("-", "")):
        assert daemon.get(f"/service/{uuid}").json == machine


def test_machine_called_machine_is_reached_by_its_uuid(daemon: Daemon) -> None:
    found = [one for one in daemon.get("/service/machine").json if one["name"] == "machine"]
    base = f"/service/{found[0]['uuid']}"
    assert daemon.get(base).json == found[0]
    verbs = daemon.get(base + "/state_controller").json["verbs"]
    assert verbs["nmi"] == base + "/state_controller/nmi"
    assert daemon.get("/service/machine/state_controller/status").json["state"] == "running"


def test_state_controller_names_every_verb_by_a_url_that_works(daemon: Daemon) -> None:
    answer = daemon.get("/service/spare-1/state_controller").json
    assert list(answer["verbs"]) == list(ALL_VERBS)
    assert daemon.get(answer["status"]).json["state"] == "running"
    assert daemon.get(answer["verbs"]["force_off"]).json["state"] == "shut off"


def test_number_is_a_name_never_an_id(daemon: Daemon) -> None:
    running = daemon.get("/service/vm").json["id"]
    for number in (str(running), f"+{running}", f"%20{running}"):
        members = problem(daemon.act(number, "force_off"), NOT_FOUND)
        assert "machine" in members["detail"]
    assert daemon.status("vm")["state"] == "running"


@pytest.mark.parametrize(
    "name",
    ["nope", "../vm", "vm;destroy", "'", '"', "a\nb", "\0", "--help", "--domain", "5", "-1", " ",
     "ü", "🖥", "%", "__class__", "GET", "exposed", "x" * 8_000, "vm/x", "..", "."],
)  # fmt: skip
def test_unknown_machine_is_not_found(daemon: Daemon, name: str) -> None:
    for url in ("", "/state_controller", "/state_controller/status"):
        problem(daemon.get(f"/service/{quote(name, safe='')}{url}"), NOT_FOUND)
    problem(daemon.act(name, "force_off"), NOT_FOUND)


@pytest.mark.parametrize(
    "path", ["/nope", "/service/vm/nope", "/service/vm/state_controller/status/x", "/services",
             "/service/%2F", "/service/vm/%2Fboot", "/service%2Fvm", "/service/./vm", "//nope",
             "//localhost/service/vm", "/service//state_controller/status", "/favicon.ico",
             "/service/__init__/__globals__/x/y", "/service/%ff/x", "/hosts/nope",
             "/hosts/nope/service/vm", "/hosts/Local/healthz", "/hosts/%FF/events",
             "/hosts/local/x", "/hosts/local/openapi.json", "/hosts/local/hosts",
             "/hosts/service/vm"],
)  # fmt: skip
def test_unknown_url_is_not_found(daemon: Daemon, path: str) -> None:
    problem(daemon.get(path), NOT_FOUND)


@pytest.mark.parametrize("template", JSON_URLS)
def test_slash_too_many_means_nothing(daemon: Daemon, template: str) -> None:
    """Not even a machine without a name, which libvirt refuses; `%2F` is none."""
    url = url_of(template)
    answer = daemon.get(url)
    for odd in (f"/{url}", f"{url}//", url.replace("/", "//"), f"///{url}///"):
        assert daemon.get(odd).json == answer.json
        assert daemon.request("HEAD", odd).status == OK
        assert daemon.request("OPTIONS", odd).headers["allow"] == URLS[template][0]
        target = f"http://localhost{odd}"
        assert daemon.request("GET", target).json == answer.json


def test_slash_too_many_loses_no_body(daemon: Daemon) -> None:
    path = "//service/vm//state_controller/power_off//"
    problem(daemon.post(path, b'{"wait": "x"}'), BAD_REQUEST)
    problem(daemon.request("PUT", "/service/vm//boot", b'{"device": "x"}'), BAD_REQUEST)
    problem(daemon.request("DELETE", "//service/vm//boot//"), NOT_ALLOWED)


def test_name_cannot_become_a_command(daemon: Daemon) -> None:
    """Readline would take the two first bytes for `end this line`, and the rest for a command."""
    (session,) = daemon.children()
    for verb in ("status", "nmi"):
        path = f"/service/%01%A3destroy%20vm%20%23/state_controller/{verb}"
        problem(daemon.get(path), NOT_FOUND)
    assert daemon.status("vm")["state"] == "running"
    assert daemon.children() == [session]


def test_unknown_verb_is_answered_with_the_verbs_there_are(daemon: Daemon) -> None:
    members = problem(daemon.get("/service/vm/state_controller/explode"), NOT_FOUND)
    assert members["verbs"] == list(ALL_VERBS)
    assert "power_on" in members["detail"]


@pytest.mark.parametrize(
    "query",
    ["wait=abc", "wait=", "wait=-1", "wait=nan", "wait=inf", "wait=1e9", "wait=601",
     "wait=1&wait=2", "wait=1_0", "wait=%EF%BC%91", "force=maybe", "force=", "nonsense=1",
     "Wait=1", "wait=1%00"],
)  # fmt: skip
def test_bad_parameter_is_refused_and_changes_nothing(daemon: Daemon, query: str) -> None:
    members = problem(daemon.get(f"/service/vm/state_controller/power_off?{query}"), BAD_REQUEST)
    assert query.partition("=")[0] in members["detail"]
    assert daemon.status("vm")["state"] == "running"


def test_verb_without_parameters_takes_none(daemon: Daemon) -> None:
    problem(daemon.get("/service/vm/state_controller/force_off?wait=1"), BAD_REQUEST)
    problem(daemon.get("/service/machine?x=1"), BAD_REQUEST)
    assert daemon.status("vm")["state"] == "running"


@pytest.mark.parametrize(
    "body", [b"wait=1", b"{", b"[]", b"1", b'"wait"', b"null", b"\xff", b'{"wait": "abc"}',
             b'{"wait": true}', b'{"wait": null}', b'{"force": "False!"}', b'{"wait": NaN}',
             b'{"force": 1.5}', b'{"x": 1}', b'{"wait": 1' + b"0" * 400 + b"}", b"[" * 50_000],
)  # fmt: skip
def test_bad_body_is_refused_and_changes_nothing(daemon: Daemon, body: bytes) -> None:
    problem(daemon.post("/service/vm/state_controller/power_off", body), BAD_REQUEST)
    assert daemon.status("vm")["state"] == "running"


FORM = b"device=pxe"
MULTIPART = b'--x\r\nContent-Disposition: form-data; name="device"\r\n\r\npxe\r\n--x--\r\n'
TYPES = {
    "application/x-www-form-urlencoded": FORM,
    "multipart/form-data; boundary=x": MULTIPART,
    "text/plain": b"pxe",
    "application/json": FORM,
    "application/xml": b"<device>pxe</device>",
    "text/json": b'["pxe"]',
}


@pytest.mark.parametrize(
    ("method", "path", "example"),
    [
        ("PUT", "/service/vm/boot", {"device": "pxe"}),
        ("POST", "/service/vm/state_controller/power_off", {"wait": 60}),
        ("POST", "/service/vm/state_controller/pxeboot", {"once": True}),
    ],
)
@pytest.mark.parametrize("media_type", TYPES)
def test_form_is_answered_with_what_is_wanted(
    daemon: Daemon, method: str, path: str, example: object, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    detail = problem(daemon.request(method, path, TYPES[media_type], headers), 400)["detail"]
    assert detail.startswith("the body is not ")
    words = shlex.split(detail.partition(" such as by: ")[2])
    assert words[:-1] == ["curl", "-X", method, "-H", "Content-Type: application/json", "-d"]
    assert json.loads(words[-1]) == example


def test_body_where_none_is_needed_is_answered_with_that(daemon: Daemon) -> None:
    members = problem(daemon.post(NMI, FORM), BAD_REQUEST)
    assert members["detail"].endswith("; there are no parameters here, so no body is needed")


@pytest.mark.parametrize("media_type", TYPES)
def test_json_is_taken_whatever_it_is_called(daemon: Daemon, media_type: str) -> None:
    """`curl -d` calls everything a form."""
    headers = {"Content-Type": media_type}
    path = "/service/vm/state_controller/power_off"
    members = problem(daemon.request("POST", path, b'{"wait": "x"}', headers), BAD_REQUEST)
    assert members["parameter"] == "wait"
    assert daemon.request("POST", NMI, b"{}", headers).status == OK


def test_parameter_in_query_and_body_is_refused(daemon: Daemon) -> None:
    answer = daemon.post("/service/vm/state_controller/power_off?wait=1", b'{"wait": 2}')
    problem(answer, BAD_REQUEST)


@pytest.mark.parametrize(
    ("number", "query", "body"),
    [
        (2, "?wait=5e0&force=true", None),
        (3, "?wait=0.5", b"  "),
        (4, "", b'{"wait": 5, "force": false}'),
        (5, "?force=1", b'{"wait": 0.33333333333333331}'),
    ],
)
def test_good_parameters_are_taken(
    daemon: Daemon, number: int, query: str, body: bytes | None
) -> None:
    answer = daemon.post(f"/service/spare-{number}/state_controller/power_off{query}", body)
    assert (answer.status, answer.json["state"]) == (OK, "shut off")


def test_force_cuts_the_power_of_a_guest_that_cannot_be_asked(daemon: Daemon) -> None:
    daemon.act("spare-6", "power_on")
    paused = "post-power_off"
    assert daemon.status(paused)["state"] == "paused"
    answer = daemon.act(paused, "power_off", "?force=true&wait=600")
    assert (answer.json["state"], answer.json["changed"]) == ("shut off", True)


def test_force_reset_at_its_old_address_is_the_same_verb(daemon: Daemon) -> None:
    answer = daemon.get("/service/spare-7/force_reset")
    assert (answer.status, answer.json["action"]) == (OK, "force_reset")
    assert daemon.virsh_commands()[-2].startswith("reset --domain ")


def test_json_is_indented_for_a_browser(daemon: Daemon) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = daemon.request("GET", "/service/vm", headers=browser)
    assert page.json == daemon.get("/service/vm").json
    assert b'\n  "name": "vm"' in page.body
    assert daemon.get("/service/vm").body.count(b"\n") == 1
    assert b"\n  " in daemon.request("GET", "/nope", headers=browser).body


def test_no_answer_names_cherrypy_or_python(daemon: Daemon) -> None:
    for path in ("/", "/nope", "/service/vm", "/service/vm/state_controller/explode"):
        answer = daemon.get(path)
        assert answer.headers["server"] == "libvirt_http_mc"
        assert b"CherryPy" not in answer.body


def exchange(daemon: Daemon, request: bytes) -> bytes:
    """All that comes back on a connection for some bytes, until the daemon ends it."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as connection:
        connection.sendall(request)
        # The daemon may have ended the connection already.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def post(path: str, headers: str, body: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /service/vm/state_controller/power_off?wait=%ff HTTP/1.0\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: =?utf-8?q?localhost?=\r\n\r\n", 421),
        ("GET /service/früh HTTP/1.0\r\n\r\n".encode(), 400),
        (b"get / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAccept: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (post(NMI, "Content-Length: -1", "{}"), 400),
        (post(NMI, "Content-Length: +2", "{}"), 400),
        (post(NMI, "Content-Length: two", "{}"), 400),
        (post(NMI, "Content-Length: 60", "{}"), 400),
        (post(NMI, "Content-Length: 100000", " " * 100_000), 413),
        (post(NMI, "Transfer-Encoding: chunked", "2\n{}\r\n0\r\n\r\n"), 400),
        (post(NMI, "Transfer-Encoding: chunked", "2\r\n{}0\r\n\r\n"), 400),
        (post(NMI, "Transfer-Encoding: chunked", "2\r\n{}\r\n"), 400),
        (
            post(NMI, "Transfer-Encoding: chunked\r\nContent-Length: 12", "2\r\n{}\r\n0\r\n\r\n"),
            400,
        ),
        (post(NMI, "Transfer-Encoding: chunked", "10001\r\n"), 413),
        (post(NMI, "Transfer-Encoding: chunked", "1\r\n \r\n" * 10_000), 413),
        (post(NMI, "Transfer-Encoding: gzip", ""), 501),
    ],
)
def test_what_never_gets_to_the_service_is_a_problem_too(
    daemon: Daemon, request_bytes: bytes, status: int
) -> None:
    before = len(daemon.virsh_commands())
    head, _, body = exchange(daemon, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body)["status"] == status
    assert daemon.virsh_commands()[before:] == []


def test_nothing_is_smuggled_in_a_body(daemon: Daemon) -> None:
    """A body that a resource does not read is never taken for the next request."""
    before = len(daemon.virsh_commands())
    inner = f"GET {NMI} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    outer = "{} /service/machines/x/y HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n{}"
    for method in ("GET", "DELETE", "POST"):
        length = outer.format(method, f"Content-Length: {len(inner)}", inner)
        assert exchange(daemon, length.encode()).count(b"HTTP/1.1 404") == 1
        for chunks in (inner, f"0\r\n{inner}", f"2\r\nabc\r\n0\r\n\r\n{inner}"):
            chunked = outer.format(method, "Transfer-Encoding: chunked", chunks)
            assert exchange(daemon, chunked.encode()).count(b"HTTP/1.1") == 1
        chunk = f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
        chunked = outer.format(method, "Transfer-Encoding: chunked", chunk)
        assert exchange(daemon, chunked.encode()).count(b"HTTP/1.1 404") == 1
    assert daemon.virsh_commands()[before:] == []


def test_connection_goes_on_after_an_error(daemon: Daemon) -> None:
    one = b"DELETE /service/vm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    last = b"GET /service/vm HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    chunked = one.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked")
    chunked = chunked.replace(b"abc", b"2;x\r\nab\r\n1\r\nc\r\n0\r\nA: b\r\n\r\n")
    answers = exchange(daemon, one + chunked + one + chunked + last)
    assert (answers.count(b"HTTP/1.1 405"), answers.count(b"HTTP/1.1 200")) == (4, 1)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_parameters_may_come_in_chunks(daemon: Daemon, size: int) -> None:
    """As .NET's `PutAsJsonAsync` sends them, and whoever does not know their length."""
    body = b'{"wait": 5, "force": true}'
    daemon.act("vm", "power_on")
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    path = "/service/vm/state_controller/power_off"
    answer = daemon.request("POST", path, chunks, {"Transfer-Encoding": "chunked"})
    assert (answer.status, answer.json["state"]) == (OK, "shut off")
    daemon.act("vm", "power_on")


@pytest.mark.parametrize("framing", ["Content-Length: 12", "Transfer-Encoding: chunked"])
def test_client_that_waits_to_continue_is_told_to(daemon: Daemon, framing: str) -> None:
    """Before its body, and once; and what follows the body is the next request."""
    head = post("/service/vm/state_controller/power_off", f"{framing}\r\nExpect: 100-continue", "")
    body = b'{"wait": -1}'
    chunks = b"c\r\n" + body + b"\r\n0\r\n\r\n" if "chunked" in framing else body
    with Wire(daemon.port) as wire:
        wire.send(head)
        first = wire.response(final=False)
        assert first and first.status == HTTPStatus.CONTINUE
        wire.send(chunks + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answers = [wire.response(final=False), wire.response(final=False)]
    assert [one and one.status for one in answers] == [BAD_REQUEST, OK]


def test_every_action_is_logged_in_one_line(daemon: Daemon) -> None:
    daemon.act("vm", "nmi")
    line = [line for line in daemon.log().splitlines() if " mc.action: " in line][-1]
    uuid = daemon.get("/service/vm").json["uuid"]
    assert f'nmi client=127.0.0.1 user=- machine="vm" uuid={uuid} ' in line
    assert 'outcome="changed, running" ms=' in line
    daemon.act("off", "nmi")
    line = [line for line in daemon.log().splitlines() if " mc.action: " in line][-1]
    assert 'outcome="WrongState: cannot nmi' in line


def test_log_line_cannot_be_forged_by_a_name(daemon: Daemon) -> None:
    daemon.act("x\r\n2026-01-01 INFO mc.action: forged", "force_off")
    assert not any(line.startswith("2026-01-01") for line in daemon.log().splitlines())


def test_state_words_can_be_on_and_off(tmp_path: Path) -> None:
    uri = hypervisor(tmp_path / "machines.xml", [("up", "paused"), ("down", "shut off")])
    settings = tmp_path / "settings.conf"
    settings.write_text("[global]\nservice.state_words = 'power'\n")
    with Daemon("--connect", uri, "--config", str(settings)) as daemon:
        assert [one["state"] for one in daemon.get("/service/machines").json] == ["off", "on"]
        assert daemon.status("up") == {"state": "on", "power": "on", "reason": "unknown"}
        assert daemon.act("up", "force_off").json["state"] == "off"
        assert daemon.get("/service/down").json["state"] == "off"


@pytest.mark.parametrize(
    "request_bytes",
    [b"HEAD /x HTTP/1.1\r\n\r\n", b"HEAD / HTTP/9.9\r\nHost: x\r\n\r\n",
     b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
     b"HEAD /" + b"x" * 9000, b"HEAD /"],
)  # fmt: skip
def test_head_that_is_refused_has_no_body(daemon: Daemon, request_bytes: bytes) -> None:
    """RFC 9110, section 9.3.2."""
    head, _, body = exchange(daemon, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ")
    assert body == b""
