"""The console page when the answer to a question has changed while it was open, and odd answers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browser import Console, console
from tests.daemon import Daemon
from tests.hypervisor import hypervisor
from tests.test_console import demo, refuse


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with demo(tmp_path) as daemon:
        yield daemon


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


@pytest.mark.parametrize(("menu", "verb"), [("", "Power off"), ("More", "Force off")])
def test_focus_stays_in_the_row_when_its_button_goes_off_meanwhile(
    shown: Console, daemon: Daemon, menu: str, verb: str
) -> None:
    if menu:
        shown.choose("web-1", menu, verb)
    else:
        shown.button("web-1", verb).click()
    daemon.act("web-1", "force_off")
    expect(shown.dialog.get_by_text("It is shut off now: nothing can be done.")).to_be_visible()
    shown.page.keyboard.press("Escape")
    expect(shown.button("web-1", "Boot")).to_be_focused()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("web-1", "It runs on."),
        ("ci-runner-1", "It stays off."),
        ("staging", "It stays paused."),
        ("legacy-erp", "It stays as it is, crashed."),
        ("desktop", "It sleeps on."),
    ],
)
def test_question_says_what_the_machine_does_until_it_boots(
    shown: Console, name: str, words: str
) -> None:
    expect(shown.choose(name, "Boot", "Set what boots next")).to_contain_text(words)


def test_refusal_of_a_saved_machine_names_what_the_page_has_for_it(shown: Console) -> None:
    detail = "the machine has a saved image; discard_saved=true gives the image up"
    shown.page.route("**/pxeboot", refuse(409, detail))
    shown.choose("ci-runner-1", "Boot", "PXE boot")
    shown.confirm()
    expect(shown.answer("ci-runner-1")).to_contain_text("Give up its saved memory image")


def test_only_the_last_outcome_is_told(shown: Console, daemon: Daemon) -> None:
    requests: list[Route] = []

    def hold(route: Route) -> None:
        requests.append(route)

    shown.page.route("**/pxeboot", hold)
    shown.choose("web-1", "Boot", "PXE boot")
    shown.confirm()
    answer = shown.answer("web-1")
    answer.get_by_role("button", name="Cut its power now").click()
    expect(shown.state("web-1")).to_have_text("shut off")
    expect(answer).to_have_text(re.compile("PXE boot: its power is being cut$"))
    shown.button("web-1", "Power on").click()
    expect(answer).to_contain_text("Power on: running (booted)")
    requests[0].continue_()
    expect(answer).to_have_text(re.compile(r"^\S+( [AP]M)? PXE boot: running \(booted\)$"))


def test_power_that_could_not_be_cut(shown: Console) -> None:
    shown.page.route("**/pxeboot", lambda route: None)
    shown.page.route("**/force_off", refuse(503, "libvirt is busy"))
    shown.choose("web-1", "Boot", "PXE boot")
    shown.confirm()
    answer = shown.answer("web-1")
    answer.get_by_role("button", name="Cut its power now").click()
    expect(answer).to_contain_text("PXE boot: its power was not cut: libvirt is busy")
    expect(answer.get_by_role("button", name="Cut its power now")).to_be_enabled()


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


def test_name_is_found_as_it_is_shown_and_in_any_form(browser: Browser, tmp_path: Path) -> None:
    names = ["zero\u200bwidth", "\u00c9clair", "e\u0301lan", "Straße"]
    uri = hypervisor(tmp_path / "machines.xml", [(name, "running") for name in names])
    with Daemon("--connect", uri) as daemon, console(browser, daemon) as shown:
        expect(shown.rows).to_have_count(4)
        for text, found in {
            "zero\\u{200b}w": "zero\\u{200b}width",
            "zero\u200bw": "zero\\u{200b}width",
            "e\u0301CLAIR": "\u00c9clair",
            "\u00e9L": "e\u0301lan",
            "STRASSE": "Straße",
        }.items():
            shown.page.get_by_label("Name").fill(text)
            expect(shown.rows).to_have_count(1)
            assert shown.rows.locator("h2").text_content() == found


def test_nothing_hides_in_a_name(browser: Browser, tmp_path: Path) -> None:
    names = ["a b", "a  b", "Machine \u202eevil"]
    uri = hypervisor(tmp_path / "machines.xml", [(name, "running") for name in names])
    with Daemon("--connect", uri) as daemon, console(browser, daemon) as shown:
        expect(shown.rows).to_have_count(3)
        texts = shown.rows.locator("h2").all_inner_texts()
        assert sorted(texts) == sorted(["a b", "a  b", "Machine \\u{202e}evil"])
