"""The console page for everybody: by keyboard, by WCAG 2.2 (axe-core), on a phone."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import (
    PHONE,
    WIDE,
    WIDTHS,
    Console,
    Scheme,
    console,
    jumped,
    watch_for_jumps,
)
from tests.daemon import Daemon
from tests.hypervisor import STATES, hypervisor
from tests.test_console import demo

AXE = Path(sys.prefix) / "npm/node_modules/axe-core/axe.min.js"
"""From npm; the Makefile has installed it."""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SCHEMES: list[Scheme] = ["light", "dark"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Machines in all states, called by them."""
    uri = hypervisor(tmp_path / "machines.xml", [(state, state) for state in STATES])
    with Daemon("--connect", uri, f"--backup-dir={tmp_path / 'backups'}") as daemon:
        yield daemon


def places_of_rows(page: Page) -> list[float]:
    places: list[float] = page.evaluate(
        "Array.from(document.querySelectorAll('.row'), (row) => row.getBoundingClientRect().top)"
    )
    return places


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with what the page shows now."""
    # Colours are what they are once nothing fades in any more.
    page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished))")
    page.evaluate(AXE.read_text("utf-8"))
    run = "(rules) => axe.run({runOnly: rules, resultTypes: ['violations']})"
    found: Any = page.evaluate(run, RULES)
    return [
        f"{rule['id']}: {node['html']} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing(browser: Browser, daemon: Daemon, scheme: Scheme) -> None:
    with console(browser, daemon, scheme=scheme) as shown:
        page = shown.page
        expect(shown.boots("crashed")).to_have_text("hd")
        assert violations(page) == []
        shown.open_menu("running", "More")
        assert violations(page) == []
        page.keyboard.press("Escape")
        shown.choose("running", "Boot", "Set what boots next")
        assert violations(page) == []
        page.keyboard.press("Escape")
        shown.choose("running", "More", "Force off")
        assert violations(page) == []
        shown.confirm()
        expect(shown.answer("running")).to_contain_text("Force off: shut off (destroyed)")
        shown.choose("running", "Boot", "PXE boot")
        shown.confirm()
        expect(shown.answer("running")).to_contain_text("PXE boot: the machine has no")
        assert violations(page) == []
        shown.row("paused").get_by_role("button", name="Screen of").click()
        expect(shown.dialog).to_contain_text("Default order")
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.get_by_label("Name").fill("nothing like that")
        expect(shown.rows).to_have_count(0)
        assert violations(page) == []
        page.get_by_label("Name").fill("")
        daemon.kill()
        expect(page.get_by_role("alert")).to_be_visible()
        assert violations(page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_on_a_phone(browser: Browser, daemon: Daemon, scheme: Scheme) -> None:
    with console(browser, daemon, size=PHONE, scheme=scheme, touch=True) as shown:
        expect(shown.boots("crashed")).to_have_text("hd")
        assert violations(shown.page) == []
        shown.choose("running", "Boot", "PXE boot")
        assert violations(shown.page) == []


def test_nothing_is_cut_off_on_a_phone(browser: Browser, daemon: Daemon) -> None:
    with console(browser, daemon, size=PHONE, touch=True) as shown:
        expect(shown.boots("crashed")).to_have_text("hd")
        wide = """[...document.querySelectorAll('*')].filter((e) => e.scrollWidth > innerWidth
          && getComputedStyle(e).overflowX === 'visible')"""
        assert shown.page.evaluate(f"{wide}.map((e) => e.outerHTML.slice(0, 80))") == []
        menu = shown.open_menu("running", "More").bounding_box()
        assert menu
        assert menu["x"] >= 0
        assert menu["x"] + menu["width"] <= PHONE["width"]


def tab_to(shown: Console, name: str) -> None:
    """Press Tab until what bears this name has the focus."""
    for _ in range(100):
        shown.page.keyboard.press("Tab")
        if shown.focused == name:
            return
    raise AssertionError(f"Tab does not lead to {name!r}")


def test_everything_goes_by_keyboard(shown: Console, daemon: Daemon) -> None:
    keys = shown.page.keyboard
    expect(shown.rows).to_have_count(len(STATES))
    keys.press("Tab")
    keys.type("shut off")
    expect(shown.rows).to_have_count(1)
    tab_to(shown, "Screen of shut off: off")
    keys.press("Enter")
    expect(shown.dialog).to_contain_text("Default order")
    keys.press("Escape")
    expect(shown.dialog).to_be_hidden()
    assert shown.focused == "Screen of shut off: off"
    tab_to(shown, "Power on")
    keys.press("Space")
    expect(shown.state("shut off")).to_have_text("running")
    # Its button is gone, and with it the one that had the focus.
    assert shown.focused == "Boot"

    tab_to(shown, "More")
    keys.press("ArrowDown")
    menu = shown.page.get_by_role("menu", name="More: shut off")
    expect(menu.get_by_role("menuitem", name="Power cycle")).to_be_focused()
    keys.press("ArrowUp")
    expect(menu.get_by_role("menuitem", name="Send an NMI")).to_be_focused()
    keys.press("Home")
    keys.press("f")
    expect(menu.get_by_role("menuitem", name="Force off")).to_be_focused()
    keys.press("Escape")
    expect(menu).to_be_hidden()
    assert shown.focused == "More"
    keys.press("ArrowUp")
    expect(menu.get_by_role("menuitem", name="Send an NMI")).to_be_focused()
    keys.press("ArrowUp")
    keys.press("Enter")

    expect(shown.dialog).to_contain_text("Force off: shut off")
    expect(shown.dialog.get_by_role("button", name="Cancel")).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(shown.dialog).to_be_hidden()
    expect(shown.state("shut off")).to_have_text("shut off")
    assert daemon.status("shut off")["state"] == "shut off"


def test_filter_goes_by_arrows(shown: Console) -> None:
    keys = shown.page.keyboard
    expect(shown.page.get_by_label("all 7")).to_be_visible()
    keys.press("Tab")
    keys.press("Tab")
    expect(shown.page.get_by_label("all 7")).to_be_focused()
    keys.press("ArrowRight")
    expect(shown.page.get_by_label("running 1")).to_be_checked()
    expect(shown.rows.get_by_role("heading")).to_have_text(["running"])


def test_focus_is_seen_and_not_hidden(shown: Console) -> None:
    """WCAG 2.4.7 and 2.4.11, which axe-core cannot check."""
    expect(shown.rows).to_have_count(len(STATES))
    shown.page.set_viewport_size({"width": WIDE["width"], "height": 400})
    for _ in range(30):
        shown.page.keyboard.press("Tab")
        style, top, bottom, header = shown.page.evaluate(
            """() => {
              const focused = document.activeElement;
              const {outlineStyle} = getComputedStyle(focused);
              const {top, bottom} = focused.getBoundingClientRect();
              const header = document.querySelector("header");
              const edge = header.contains(focused) ? 0 : header.getBoundingClientRect().bottom;
              return [outlineStyle, top, bottom, edge];
            }"""
        )
        if shown.page.evaluate("document.activeElement.type") != "radio":
            assert style == "solid"
        assert header <= top
        assert bottom <= 400


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_jumps_while_it_loads(browser: Browser, daemon: Daemon, width: int) -> None:
    with console(browser, daemon, size={"width": width, "height": 2400}) as shown:
        watch_for_jumps(shown.page)
        shown.page.reload()
        expect(shown.boots("shut off")).to_have_text("hd")
        expect(shown.row("running").locator(".picture img")).to_be_visible()
        expect(shown.page.locator("#where")).not_to_be_empty()
        daemon.kill()
        expect(shown.page.get_by_role("alert")).to_be_visible()
        assert jumped(shown.page) < 0.002


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Daemon]:
    with demo(tmp_path) as daemon:
        yield daemon


@pytest.fixture(params=WIDTHS)
def tall(request: pytest.FixtureRequest, browser: Browser, fresh: Daemon) -> Iterator[Console]:
    """The page of `fresh`, in a window for all rows, when it shows what there is."""
    with console(browser, fresh, size={"width": request.param, "height": 2400}) as shown:
        expect(shown.boots("web-1")).to_have_text("disk vda")
        yield shown


def test_nothing_jumps_when_a_machine_changes(tall: Console, fresh: Daemon) -> None:
    places = places_of_rows(tall.page)
    fresh.act("staging", "power_on")
    expect(tall.state("staging")).to_have_text("running")
    assert places_of_rows(tall.page) == places
    fresh.act("db-1", "force_off")
    expect(tall.button("db-1", "Power on")).to_be_visible()
    assert places_of_rows(tall.page) == places
    fresh.act("ci-runner-1", "diskboot", "?once=true")
    expect(tall.boots("ci-runner-1")).to_contain_text("pending")
    assert places_of_rows(tall.page) == places


def test_nothing_jumps_with_a_countdown(tall: Console) -> None:
    places = places_of_rows(tall.page)
    requests: list[Route] = []

    def hold(route: Route) -> None:
        requests.append(route)

    tall.page.route("**/pxeboot", hold)
    dialog = tall.choose("db-1", "Boot", "PXE boot")
    dialog.get_by_label("Seconds").fill("10")
    tall.confirm()
    cut = tall.answer("db-1").get_by_role("button", name="Cut its power now")
    expect(tall.answer("db-1")).to_contain_text("power cut in 10 s")
    place = cut.bounding_box()
    for words in ("power cut in 9 s", "PXE boot …"):
        expect(tall.answer("db-1")).to_contain_text(words)
        assert cut.bounding_box() == place
        assert places_of_rows(tall.page) == places
    requests[0].fulfill(status=409, json={"detail": "it is not so. " * 30})
    expect(tall.answer("db-1")).to_contain_text("it is not so")
    assert places_of_rows(tall.page) == places
    # All of it is there for whoever wants to know.
    tall.answer("db-1").locator("summary").click()
    assert places_of_rows(tall.page) != places


def test_places_of_buttons_do_not_depend_on_the_others(browser: Browser, tmp_path: Path) -> None:
    with demo(tmp_path) as daemon, console(browser, daemon) as shown:
        place = shown.button("web-1", "Boot").bounding_box()
        daemon.act("web-1", "force_off")
        expect(shown.button("web-1", "Power on")).to_be_visible()
        assert shown.button("web-1", "Boot").bounding_box() == place


def test_states_differ_by_word_and_shape_and_colour(shown: Console) -> None:
    expect(shown.rows).to_have_count(len(STATES))
    looks = {}
    for state in STATES:
        place = shown.state(state)
        expect(place).to_have_text(re.compile(f"^{state}"))
        looks[state] = place.locator(".shape").evaluate(
            "(shape) => [getComputedStyle(shape).clipPath, getComputedStyle(shape).color]"
        )
    # `idle` is how some hypervisors call a machine that runs.
    assert looks.pop("idle") == looks["running"]
    shapes, colours = zip(*looks.values(), strict=True)
    assert len(set(shapes)) == len(set(colours)) == len(looks)
