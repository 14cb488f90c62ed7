"""The daemon on the distribution's own Python and versions of the libraries."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from requests.auth import HTTPDigestAuth

from mc.users import add_user
from tests.certificate import certificate
from tests.daemon import Daemon
from tests.hypervisor import hypervisor

PYTHON = "/usr/bin/python3"
# Without what the user, or a virtual environment, has of their own.
ENVIRONMENT = {"PYTHONNOUSERSITE": "1", "PYTHONPATH": ""}


@pytest.fixture(params=["http", "https"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    add_user(tmp_path / "users", "admin", "secret")
    uri = hypervisor(tmp_path / "machines.xml", [("vm", "running")])
    arguments = ["--connect", uri, "--users", str(tmp_path / "users")]
    arguments += ["--backup-dir", str(tmp_path / "backups")]
    if request.param == "https":
        cert, key = certificate(tmp_path)
        arguments += ["--tls-cert", str(cert), "--tls-key", str(key)]
    with Daemon(*arguments, environment=ENVIRONMENT, python=PYTHON) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log()


def test_libraries_are_the_distributions() -> None:
    code = "import cherrypy, lxml, prometheus_client as p; print(cherrypy, lxml, p)"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert len(re.findall("from '/usr/lib/python3/dist-packages/", done.stdout)) == 3


def test_it_serves_what_it_serves_elsewhere(daemon: Daemon, tmp_path: Path) -> None:
    scheme = "https" if "https" in daemon.announcement else "http"
    url = f"{scheme}://localhost:{daemon.port}"
    with requests.Session() as client:
        client.trust_env = False
        client.verify = str(tmp_path / "cert.pem")
        assert client.get(f"{url}/healthz", timeout=30).json()["status"] == "ok"
        assert client.get(f"{url}/service/vm", timeout=30).status_code == 401
        client.auth = HTTPDigestAuth("admin", "secret")
        status = f"{url}/service/vm/state_controller/status"
        assert client.get(status, timeout=30).json()["power"] == "on"
        assert client.get(status.replace("vm", "v%C3%BC"), timeout=30).status_code == 404
        assert client.get(f"{url}/service/vm/state_controller/nope", timeout=30).status_code == 404
        off = f"{url}/service/vm/state_controller/force_off"
        assert client.head(off, timeout=30).status_code == 405
        assert client.post(off, json={}, timeout=30).json()["power"] == "off"
        answer = client.put(f"{url}/service/vm/boot", json={"device": "nope"}, timeout=30)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.options(off, timeout=30).headers["allow"] == "GET, POST, OPTIONS"
        assert "libvirt_mc_requests_total" in client.get(f"{url}/metrics", timeout=30).text
        assert client.get(f"{url}/openapi.json", timeout=30).json()["openapi"]
        page = client.get(url, headers={"Accept": "text/html"}, timeout=30)
        assert page.text.startswith("<!doctype html>")
        with client.get(f"{url}/events", stream=True, timeout=30) as stream:
            told = (line for line in stream.iter_lines() if line.startswith(b"data: "))
            libvirt, host = (json.loads(next(told).removeprefix(b"data: ")) for _ in range(2))
            assert (host["name"], host["state"]) == ("local", "up")
            assert libvirt == {"host": "local", "reachable": True}
