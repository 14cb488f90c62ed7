"""A real browser, and the console page in it as a person meets it."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import (
    Browser,
    HttpCredentials,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.daemon import Daemon

EXECUTABLE = "/usr/bin/chromium"
"""Debian's; Playwright brings none of its own along."""
# Root needs the first, and the others keep it from calling anybody: its maker, a display, a GPU.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATIENCE = 60_000
"""Milliseconds that a test waits for the page to show something; no test comes near it."""

WIDE: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 320, "height": 640}
WIDTHS = [320, 390, 800, 1440]
"""Of a small phone, a phone, a tablet and a desk: the page has three arrangements."""

Scheme = Literal["light", "dark"]


@contextmanager
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=_PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=EXECUTABLE, args=_ARGUMENTS, timeout=_PATIENCE
        )
        try:
            yield browser
        finally:
            browser.close()


class Console:
    """The page, opened; whatever it complains about is in `complaints`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(_PATIENCE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._said(message.type, message.text))
        page.goto(url)

    def _said(self, kind: str, text: str) -> None:
        """The browser itself reports every answer that is an error, be it expected or not."""
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(text)

    @property
    def rows(self) -> Locator:
        return self.page.locator("#machines > li:visible")

    def row(self, name: str) -> Locator:
        heading = self.page.locator("h2", has_text=re.compile(f"^{re.escape(name)}$"))
        return self.page.locator("#machines > li").filter(has=heading)

    def state(self, name: str) -> Locator:
        return self.row(name).locator(".state")

    def boots(self, name: str) -> Locator:
        """What the machine boots next."""
        return self.row(name).locator(".order")

    def answer(self, name: str) -> Locator:
        """What came of the last action, or how far it is."""
        return self.row(name).locator(".answer")

    def button(self, name: str, label: str) -> Locator:
        return self.row(name).get_by_role("button", name=label, exact=True)

    def open_menu(self, name: str, menu: str) -> Locator:
        self.button(name, menu).click()
        return self.page.get_by_role("menu")

    def choose(self, name: str, menu: str, verb: str) -> Locator:
        """Choose a verb that asks first; the dialog in which it does."""
        self.open_menu(name, menu).get_by_role("menuitem", name=verb).click()
        return self.dialog

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def confirm(self) -> None:
        """Do what the dialog asks about."""
        self.dialog.locator("[type=submit]").click()
        expect(self.dialog).to_be_hidden()

    @property
    def link(self) -> Locator:
        """How the page follows the machines."""
        return self.page.locator("#link")

    def wait_until_it_follows(self) -> None:
        expect(self.link).to_have_text(re.compile("Live|Polling"))

    @property
    def focused(self) -> str:
        """The name of what has the focus."""
        name: str = self.page.evaluate(
            "document.activeElement.ariaLabel ?? document.activeElement.textContent.trim()"
        )
        return name


@contextmanager
def console(
    browser: Browser,
    daemon: Daemon,
    *,
    size: ViewportSize = WIDE,
    scheme: Scheme = "light",
    touch: bool = False,
    user: HttpCredentials | None = None,
) -> Iterator[Console]:
    """The page in a window of its own; it must have complained about nothing."""
    context = browser.new_context(
        viewport=size, color_scheme=scheme, has_touch=touch, http_credentials=user
    )
    try:
        shown = Console(context.new_page(), f"http://127.0.0.1:{daemon.port}/")
        yield shown
        assert shown.complaints == []
    finally:
        context.close()


def watch_for_jumps(page: Page) -> None:
    """From the next load on."""
    page.add_init_script(
        """
        window.jumped = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) window.jumped += entry.value;
        }).observe({type: "layout-shift", buffered: true});
        """
    )


def jumped(page: Page) -> float:
    """How much of the page has moved how far since it was loaded: https://web.dev/articles/cls"""
    # The browser tells after the frame in which something moved.
    page.wait_for_timeout(200)
    return float(page.evaluate("window.jumped"))


def longest_task(browser: Browser, page: Page, action: Callable[[], None]) -> float:
    """The processor time in milliseconds of the page's longest task during an action.

    On a machine that does other things as well, time on the clock would tell of those.
    """
    categories = ["toplevel", "disabled-by-default-devtools.timeline"]
    browser.start_tracing(page=page, categories=categories)
    action()
    trace = json.loads(browser.stop_tracing())["traceEvents"]
    names = [event for event in trace if event["name"] == "thread_name"]
    main = {
        (event["pid"], event["tid"]) for event in names if event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"] / 1000
        for event in trace
        if event["name"] == "RunTask" and (event["pid"], event["tid"]) in main and "tdur" in event
    ]
    assert len(tasks) > 1, "the trace tells of no tasks"
    return float(max(tasks))


def scroll_through(page: Page, size: ViewportSize = WIDE) -> None:
    """Turn the wheel over the list, then jump to its end and back."""
    page.mouse.move(size["width"] / 2, size["height"] / 2)
    for _ in range(40):
        page.mouse.wheel(0, size["height"])
        page.evaluate("new Promise(requestAnimationFrame)")
    for key in ("End", "Home"):
        page.keyboard.press(key)
        page.evaluate("new Promise((done) => setTimeout(done, 500))")
