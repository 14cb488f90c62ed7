"""What pages of other origins try against a running daemon in a real browser: they move nothing.

They are at `localhost`, another site than 127.0.0.1, and on another port of 127.0.0.1, the same
site but another origin. The daemon asks for no password, so that nothing but the guard keeps them
off; or for one that the browser knows from a visit, but does not give away on every occasion.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from mc.users import add_user
from tests.daemon import READS, Daemon
from tests.digest import authorization, nonce_of
from tests.hypervisor import hypervisor
from tests.lab import until
from tests.other_service import other_service

OK, UNAUTHORIZED = 200, 401
PATIENCE = 60.0
ACTIONS = "/service/vm/state_controller/"

# Each way with a verb of its own, by which the daemon's metrics tell that it was tried.
WAYS = {
    "force_off": "<img src='{}'>",
    "nmi": "<script>fetch('{}', {{mode: 'no-cors', credentials: 'include'}})</script>",
    "reboot": "<script>fetch('{}', {{mode: 'no-cors', method: 'POST', body: 'x'}})</script>",
    "force_reset": "<form action='{}' target=frame></form>",
    "power_cycle": "<form action='{}' target=frame method=post></form>",
    "pxeboot": "<link rel=prefetch href='{}'>",
    "diskboot": "<iframe src='{}'></iframe>",
    "cyclepower": "<script src='{}'></script>",
    "power_off": "<link rel=stylesheet href='{}'>",
    "defaultboot": "<a href='{}' target=frame>a prize</a>",
}
PAGE = """<!DOCTYPE html><title>foreign</title><iframe name=frame></iframe>{}
<script>
for (const one of document.querySelectorAll("form, a")) {{
  const frame = document.createElement("iframe");
  frame.name = one.target = Math.random();
  document.body.append(frame);
  one.submit ? one.submit() : one.click();
}}
</script>"""


@pytest.fixture(params=[False, True], ids=["open", "users"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    uri = hypervisor(tmp_path / "machines.xml", [("vm", "running")])
    add_user(tmp_path / "users", "admin", "secret")
    users = ("--users", str(tmp_path / "users")) if request.param else ()
    with Daemon("--connect", uri, *users) as daemon:
        yield daemon


@contextmanager
def visitor(browser: Browser, daemon: Daemon) -> Iterator[BrowserContext]:
    """A window of a user who has been at the daemon's page."""
    context = browser.new_context(http_credentials={"username": "admin", "password": "secret"})
    try:
        page = context.new_page()
        answer = page.goto(f"http://127.0.0.1:{daemon.port}/service/vm")
        assert answer and answer.status == OK
        yield context
    finally:
        context.close()


def refused_verbs(daemon: Daemon) -> set[str]:
    """The verbs that were called and refused, by the daemon's own count."""
    answer = daemon.get("/metrics")
    refusals = "403"
    if answer.status == UNAUTHORIZED:
        answer = daemon.request(
            "GET", "/metrics", headers=authorization("/metrics", nonce_of(answer))
        )
        refusals = "40[13]"
    pattern = rf'_requests_total\{{.*state_controller/(\w+)",status="{refusals}"\}} [1-9]'
    return set(re.findall(pattern, answer.body.decode()))


def actions(daemon: Daemon) -> list[str]:
    words = [command.split(" ")[0] for command in daemon.virsh_commands()]
    return [word for word in words if word not in READS]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_foreign_page_moves_nothing(browser: Browser, daemon: Daemon, host: str) -> None:
    url = f"http://127.0.0.1:{daemon.port}{ACTIONS}"
    parts = [markup.format(url + verb) for verb, markup in WAYS.items()]
    page = PAGE.format("".join(parts))
    foreign_site = other_service(OK, page, Content_Type="text/html")
    with foreign_site as port, visitor(browser, daemon) as context:
        context.new_page().goto(f"http://{host}:{port}/")
        until(lambda: refused_verbs(daemon), PATIENCE, "refusals", lambda seen: seen == set(WAYS))
    assert actions(daemon) == []


def test_typed_address_and_the_pages_own_button_act(browser: Browser, daemon: Daemon) -> None:
    base = f"http://127.0.0.1:{daemon.port}"
    with visitor(browser, daemon) as context:
        page = context.new_page()
        answer = page.goto(f"{base}{ACTIONS}force_off")
        assert answer and answer.json()["state"] == "shut off"
        page.goto(f"{base}/")
        row = page.locator("#machines > li").filter(has_text="vm")
        row.get_by_role("button", name="Power on", exact=True).click()
        until(lambda: actions(daemon), PATIENCE, "start", lambda words: len(words) > 1)
        assert actions(daemon) == ["destroy", "start"]
