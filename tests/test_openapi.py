"""The OpenAPI document: that it is one, tells of every route, and tells the truth."""

import os
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from mc import __version__, errors
from mc.web import problems
from mc.web.routes import routes
from mc.web.routing.operation import Content, Resource, Route, operation
from mc.web.service.controller import Controller
from mc.web.service.openapi import document
from tests.daemon import Daemon
from tests.hypervisor import DEVICES, STATES, hypervisor

ROUTES = routes(cast(Controller, None))
DOCUMENT = document(ROUTES)
PATHS = DOCUMENT["paths"]
OPERATIONS = [(path, method) for path in PATHS for method in PATHS[path] if method != "parameters"]
# What never ends by itself is for tests of its own.
STREAMS = [
    path
    for path in PATHS
    if "text/event-stream"
    in PATHS[path].get("get", {}).get("responses", {}).get("200", {}).get("content", {})
]
# The console page asks for these by itself.
PAGE_FILES = "/console/"
NOT_FOUND_ONLY = {
    f"{base}/service/{{machine}}/state_controller/{{verb}}" for base in ("", "/hosts/{host}")
}
# The machines that are there to be called, by the state that they are in at first. One that is
# in shutdown stays so for ever, and would be waited for.
MACHINES = {state.replace(" ", "-"): state for state in STATES if state != "in shutdown"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("openapi")
    uri = hypervisor(folder / "machines.xml", MACHINES.items(), DEVICES)
    with Daemon("--connect", uri, "--backup-dir", str(folder / "backups")) as daemon:
        yield daemon


def url_of(path: str, machine: str) -> str:
    """The URL of a machine on the only host."""
    return path.replace("{host}", "local").replace("{machine}", machine)


def test_document_is_openapi(daemon: Daemon) -> None:
    answer = daemon.get("/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (HTTPStatus.OK, "application/json")
    OpenAPIV31SpecValidator(answer.json).validate()
    assert answer.json["openapi"].startswith("3.1.")
    assert answer.json["info"]["version"] == __version__
    assert answer.json == DOCUMENT
    assert daemon.get(daemon.get("/").json["openapi"]).json == DOCUMENT


def test_document_tells_of_every_route() -> None:
    templates = [route.template for route in ROUTES if not route.template.startswith(PAGE_FILES)]
    assert list(PATHS) == [template for template in templates if template not in NOT_FOUND_ONLY]
    names = [PATHS[path][method]["operationId"] for path, method in OPERATIONS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", PATHS)
def test_url_allows_what_the_document_names(daemon: Daemon, path: str) -> None:
    allowed = daemon.request("OPTIONS", url_of(path, "running")).headers["allow"]
    named = [method.upper() for method in PATHS[path] if method != "parameters"]
    assert allowed.split(", ") == [*named, "OPTIONS"]


def test_every_error_is_documented() -> None:
    """Of a verb that can do all that this service can do."""
    told = PATHS["/service/{machine}/state_controller/pxeboot"]["post"]["responses"]
    statuses = {str(status.value) for status in problems._STATUS_BY_ERROR.values()}
    always = {"400", "408", "413", "414", "421", "431", "501", "505"}
    assert statuses | always | {"403"} == set(told) - {"200"}
    assert errors.Unavailable in problems._STATUS_BY_ERROR


@pytest.mark.parametrize(("path", "method"), [one for one in OPERATIONS if one[0] not in STREAMS])
def test_what_comes_without_libvirt_is_documented(away: Daemon, path: str, method: str) -> None:
    told = PATHS[path][method]["responses"]
    answer = away.request(
        method.upper(), url_of(path, "vm"), b'{"device": "pxe"}' * (method == "put")
    )
    asks = str(HTTPStatus.SERVICE_UNAVAILABLE.value) in told
    assert answer.status == (HTTPStatus.SERVICE_UNAVAILABLE if asks else HTTPStatus.OK), answer
    if asks:
        assert set(_resolved(told["503"])["headers"]) == {"Retry-After"}
        assert answer.headers["retry-after"]


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose libvirt is not there."""
    socket = tmp_path_factory.mktemp("away") / "no-socket"
    with Daemon("--connect", f"qemu+unix:///system?socket={socket}") as daemon:
        yield daemon


def _resolved(told: Any) -> Any:
    """What a reference in the document refers to."""
    if "$ref" not in told:
        return told
    found: Any = DOCUMENT
    for key in told["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return found


class Picture(Resource):
    public = True

    @operation("A picture", answer={}, media_type="image/png", other_media_types=("image/gif",))
    def GET(self) -> object:
        return Content("image/png", b"")

    HEAD = GET


class Hidden(Picture):
    documented = False


def test_resources_of_every_kind_are_told_apart() -> None:
    made = document(
        [*ROUTES, Route("/picture", Picture()), Route("/hidden", Hidden())], ("digest", "basic")
    )
    OpenAPIV31SpecValidator(made).validate()
    assert made["security"] == [{"digest": []}, {"basic": []}]
    assert made["components"]["securitySchemes"]["digest"] == {"type": "http", "scheme": "digest"}
    picture = made["paths"]["/picture"]
    assert set(picture["get"]["responses"]["200"]["content"]) == {"image/png", "image/gif"}
    assert "content" not in picture["head"]["responses"]["200"]
    assert picture["get"]["security"] == []
    assert "401" not in picture["get"]["responses"]
    assert "/hidden" not in made["paths"]
    machines = made["paths"]["/service/machines"]["get"]
    assert "security" not in machines
    for method in ("get", "head"):
        told = made["paths"]["/service/machines"][method]["responses"]["401"]
        assert _resolved(told)["headers"].keys() == {"WWW-Authenticate"}


def test_parameters_are_in_the_query_or_in_the_body() -> None:
    path = PATHS["/service/{machine}/state_controller/pxeboot"]
    in_query = {one["name"]: one["schema"] for one in path["get"]["parameters"]}
    body = path["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(in_query) == set(body["properties"]) == {"once", "grace", "discard_saved"}
    assert in_query["grace"] == {"type": "number", "minimum": 0, "maximum": 600}
    assert "parameters" not in path["post"]
    assert "the query instead; 400 if it stands in both" in path["post"]["description"]
    put = PATHS["/service/{machine}/boot"]["put"]["requestBody"]
    assert put["required"]
    assert put["content"]["application/json"]["schema"]["required"] == ["device"]


# The same requests each time: what would be added from the code's constants and from earlier
# answers depends on what has run before.
SCHEMATHESIS = """
seed = 1
[generation]
deterministic = true
database = "none"
max-examples = 6
[analysis.constants]
enabled = false
[phases.examples.extra-data-sources]
responses = false
[phases.coverage.extra-data-sources]
responses = false
[phases.fuzzing.extra-data-sources]
responses = false
[phases.fuzzing.error-feedback]
enabled = false
[phases.stateful]
enabled = false
"""


def test_schemathesis_finds_nothing(daemon: Daemon, tmp_path: Path) -> None:
    """Good and bad requests for each operation, and every check that it has."""
    settings_file = tmp_path / "schemathesis.toml"
    settings_file.write_text(SCHEMATHESIS)
    program = Path(sys.executable).parent / "schemathesis"
    file = tmp_path / "openapi.json"
    file.write_bytes(daemon.get("/openapi.json").body)
    options = ["--no-color", "--request-timeout=60", f"--url=http://127.0.0.1:{daemon.port}"]
    options += [f"--exclude-path={path}" for path in STREAMS]
    done = subprocess.run(
        [program, "--config-file", settings_file, "run", *options, file],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env=os.environ | {"no_proxy": "*"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = [one for one in OPERATIONS if one[0] not in STREAMS]
    assert f"Tested: {len(tested)}\n" in done.stdout, done.stdout


DESCRIBED = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, method in OPERATIONS if "{machine}" in path]
)
def test_answers_of_machines_are_as_documented(daemon: Daemon, path: str, method: str) -> None:
    """Good requests for machines that there are, in one state after the other."""
    described = DESCRIBED[path][method.upper()]

    @settings(derandomize=True, database=None, deadline=None, max_examples=12)
    @given(described.as_strategy(), st.sampled_from([*MACHINES]))
    def exchange(case: Any, machine: str) -> None:
        case.path_parameters["machine"] = machine
        if "{host}" in path:
            case.path_parameters["host"] = "local"
        case.call_and_validate(f"http://127.0.0.1:{daemon.port}", timeout=60)

    exchange()
