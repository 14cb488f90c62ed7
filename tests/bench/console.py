"""What the console page costs the browser with a thousand machines."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.browser import chromium, console, longest_task, scroll_through
from tests.daemon import Daemon
from tests.hypervisor import STATES, hypervisor
from tests.lab import until

_MANY = 1000
_LOADS = 5
# Notes when the page has put the first row in, in milliseconds since it was asked for.
_WATCH = """
    new MutationObserver((changes, watch) => {
      if (!document.querySelector("#machines > li")) return;
      window.firstRow = performance.now();
      watch.disconnect();
    }).observe(document, {childList: true, subtree: true});
"""

Row = tuple[str, str, str]
"""What was measured, the figure, and what is wanted."""


def rows(folder: Path) -> Iterator[Row]:
    states = list(STATES)
    machines = [(f"vm-{number}", states[number % len(states)]) for number in range(_MANY)]
    uri = hypervisor(folder / "console.xml", machines)
    with Daemon("--connect", uri, "--log-level=info") as daemon, chromium() as browser:
        seconds = statistics.median(_first_row(browser, daemon) for _ in range(_LOADS))
        yield f"console: first of {_MANY} rows, s", f"{seconds:.2f}", "< 1"
        with console(browser, daemon) as shown:
            _wait_for(shown.page, f"document.querySelectorAll('#machines > li').length === {_MANY}")
            task = longest_task(browser, shown.page, lambda: scroll_through(shown.page))
        yield "console: longest task while scrolling, ms of processor", f"{task:.0f}", "< 50"


def _first_row(browser: Browser, daemon: Daemon) -> float:
    """Seconds from asking for the page to its first row, with nothing cached."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.add_init_script(_WATCH)
        page.goto(f"http://127.0.0.1:{daemon.port}/")
        return float(_wait_for(page, "window.firstRow")) / 1000
    finally:
        context.close()


def _wait_for(page: Page, what: str) -> float:
    value: float = until(lambda: page.evaluate(what), 60, what)
    return value
