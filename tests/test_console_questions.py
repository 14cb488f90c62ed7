"""The console page when the answer to a question has changed while it was open, and odd answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Console, console
from tests.daemon import Daemon
from tests.hypervisor import hypervisor
from tests.test_console import demo


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with demo(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def shown(browser: Browser, daemon: Daemon) -> Iterator[Console]:
    with console(browser, daemon) as shown:
        yield shown


@pytest.mark.parametrize("verb", ["Force off", "Reset", "Power cycle"])
def test_machine_goes_off_while_its_question_is_open(
    shown: Console, daemon: Daemon, verb: str
) -> None:
    dialog = shown.choose("web-1", "More", verb)
    daemon.act("web-1", "force_off")
    expect(dialog.get_by_text("It is shut off now: nothing can be done.")).to_be_visible()
    expect(dialog.locator("[type=submit]")).to_be_disabled()
    shown.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_one_time_device_is_taken_back(shown: Console, daemon: Daemon) -> None:
    body = json.dumps({"device": "pxe", "once": True}).encode()
    daemon.request("PUT", "/service/web-1/boot", body)
    boots = shown.boots("web-1").get_by_role("listitem")
    expect(boots).to_have_text(["network, once", "disk vda"])
    dialog = shown.choose("web-1", "Boot", "Set what boots next")
    dialog.get_by_label("What it boots").select_option("none")
    expect(dialog.get_by_text("is taken back")).to_be_visible()
    shown.confirm()
    expect(boots).to_have_text(["disk vda"])
    assert daemon.get("/service/web-1/boot").json["once"] is None


def test_guest_that_is_asked_to_reboot_has_not_done_so_yet(shown: Console) -> None:
    shown.button("web-1", "Reboot").click()
    shown.confirm()
    expect(shown.answer("web-1")).to_contain_text("Reboot: asked; it is running")


def test_machine_that_is_on_in_some_way_can_be_resumed(browser: Browser, tmp_path: Path) -> None:
    """All that is told of one that is paused is that it is on."""
    (tmp_path / "mc.conf").write_text("[global]\nservice.state_words = 'power'\n")
    with (
        demo(tmp_path, "--config", str(tmp_path / "mc.conf")) as daemon,
        console(browser, daemon) as shown,
    ):
        shown.open_menu("staging", "More").get_by_role("menuitem", name="Resume or wake up").click()
        expect(shown.answer("staging")).to_contain_text("Resume or wake up: on")
        reason = daemon.status("staging")["reason"]
        assert reason == "unpaused"
        dialog = shown.choose("desktop", "Boot", "PXE boot")
        expect(dialog.get_by_text("Its guest, if it runs, is asked to shut down")).to_be_visible()


def test_nothing_hides_in_a_name(browser: Browser, tmp_path: Path) -> None:
    names = ["a b", "a  b", "Machine \u202eevil"]
    uri = hypervisor(tmp_path / "machines.xml", [(name, "running") for name in names])
    with Daemon("--connect", uri) as daemon, console(browser, daemon) as shown:
        expect(shown.rows).to_have_count(3)
        texts = shown.rows.locator("h2").all_inner_texts()
        assert sorted(texts) == sorted(["a b", "a  b", "Machine \\u{202e}evil"])
