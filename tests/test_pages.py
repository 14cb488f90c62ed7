"""The console page as files: what a browser gets, and what a program gets at the same URL."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.hypervisor import hypervisor

OK = HTTPStatus.OK
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FOLDER = Path(__file__).parent.parent / "mc/web/console"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
FILES = [file.name for file in sorted(FOLDER.iterdir()) if file.suffix in MEDIA_TYPES]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("pages")
    uri = hypervisor(folder / "machines.xml", [("alpha", "running")])
    with Daemon("--connect", uri, folder=folder) as daemon:
        yield daemon


def test_browser_gets_the_page(daemon: Daemon) -> None:
    answer = daemon.request("GET", "/", headers=BROWSER)
    assert answer.status == OK
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.body == (FOLDER / "console.html").read_bytes()


@pytest.mark.parametrize("accept", ["text/html", "Text/*", "text/html, application/json;q=0.9"])
def test_who_prefers_html_gets_the_page(daemon: Daemon, accept: str) -> None:
    answer = daemon.request("GET", "/", headers={"Accept": accept})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert daemon.request("GET", "/service", headers={"Accept": accept}).body.startswith(b"{\n  ")


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/json",
        "text/html;q=0",
        "text/html;q=0.1, application/json",
        "text/html;q=0.1, */*;q=0.2",
        "text/html;q=much",
        "text/html;q=much, application/json;q=more",
    ],
)
def test_program_gets_the_urls(daemon: Daemon, accept: str) -> None:
    answer = daemon.request("GET", "/", headers={"Accept": accept} if accept else {})
    assert answer.body.startswith(b'{"')
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["machines"] == "/service/machines"
    assert answer.json["grace_seconds"] == 15


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_files_of_the_page(daemon: Daemon, name: str, method: str) -> None:
    answer = daemon.request(method, f"/console/{name}")
    content = (FOLDER / name).read_bytes()
    assert answer.status == OK
    assert answer.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
    assert answer.headers["content-length"] == str(len(content))
    assert answer.body == (content if method == "GET" else b"")


def test_head_of_the_page(daemon: Daemon) -> None:
    answer = daemon.request("HEAD", "/", headers=BROWSER)
    assert (answer.status, answer.body) == (OK, b"")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", ["", "console.html", "nothing.js", "..%2Fpages.py"])
def test_nothing_else_is_served(daemon: Daemon, name: str) -> None:
    answer = daemon.get(f"/console/{name}")
    assert answer.status == HTTPStatus.NOT_FOUND
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/service", "/service/machines", "/service/none", "/none"])
def test_everything_else_stays_json_in_a_browser(daemon: Daemon, path: str) -> None:
    answer = daemon.request("GET", path, headers=BROWSER)
    assert "json" in answer.headers["content-type"]
    assert answer.body.startswith((b"{\n  ", b"[\n  "))


def test_page_names_no_address_outside_the_daemon() -> None:
    for file in FOLDER.iterdir():
        addresses = set(re.findall(r"\w+://[^\s\"']+", file.read_text("utf-8")))
        # The name of a language is no address.
        assert addresses <= {"http://www.w3.org/2000/svg"}, file


def test_page_holds_no_script_and_no_style_of_its_own() -> None:
    page = (FOLDER / "console.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", page)
