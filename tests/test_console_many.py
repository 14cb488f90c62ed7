"""The console page with a thousand machines."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.booting import PATIENCE
from tests.browser import (
    WIDTHS,
    console,
    jumped,
    longest_task,
    scroll_through,
    watch_for_jumps,
)
from tests.daemon import Daemon
from tests.hypervisor import STATES, hypervisor
from tests.lab import until

MACHINES = 1000
# More than are in view, fewer than anybody would notice.
FEW = 60


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("many")
    states = list(STATES)
    machines = [(f"vm-{number}", states[number % len(states)]) for number in range(MACHINES)]
    with Daemon("--connect", hypervisor(folder / "machines.xml", machines)) as daemon:
        yield daemon


@pytest.fixture
def page(browser: Browser, daemon: Daemon) -> Iterator[Page]:
    with console(browser, daemon) as shown:
        wait_for(shown.page, "document.querySelectorAll('#machines > li').length", MACHINES)
        yield shown.page


def wait_for(page: Page, what: str, value: object) -> None:
    """Wait until an expression in the page has a value.

    Playwright's own expectations describe the whole page at each look, which takes seconds here,
    in which the page does nothing else.
    """
    until(lambda: page.evaluate(what), PATIENCE, f"{what} of {value!r}", lambda now: now == value)


def visible(page: Page) -> list[str]:
    """The names of the rows that the filter admits."""
    names: list[str] = page.evaluate(
        "Array.from(document.querySelectorAll('#machines > li:not([hidden]) h2'),"
        " (name) => name.textContent)"
    )
    return names


def boots(name: str) -> str:
    """The expression for what a machine boots next."""
    return f"""Array.from(document.querySelectorAll('#machines > li'))
        .find((row) => row.querySelector('h2').textContent === '{name}')
        .querySelector('.order').textContent"""


def test_all_are_there_in_the_order_that_people_expect(page: Page) -> None:
    assert visible(page) == [f"vm-{number}" for number in range(MACHINES)]
    wait_for(page, "document.querySelector('#filter-state b').textContent", str(MACHINES))


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_jumps_while_they_load(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    watch_for_jumps(page)
    page.reload()
    wait_for(page, "document.querySelectorAll('#machines > li').length", MACHINES)
    wait_for(page, boots("vm-0"), "hd")
    assert jumped(page) < 0.01


def test_only_what_is_in_view_is_read(page: Page) -> None:
    for number in (0, 995, 500):
        page.evaluate(f"document.querySelectorAll('#machines > li')[{number}].scrollIntoView()")
        wait_for(page, boots(f"vm-{number}"), "hd")
    described = "document.querySelectorAll('#machines .order li').length"
    assert page.evaluate(described) < 3 * FEW
    pictures = "document.querySelectorAll('#machines img[src]').length"
    wait_for(page, f"{pictures} < {FEW}", True)
    wait_for(page, f"{pictures} > 0", True)


def test_one_is_found_among_many(page: Page) -> None:
    page.locator("#filter-name").fill("vm-77")
    assert visible(page) == ["vm-77", *(f"vm-{number}" for number in range(770, 780))]
    page.locator("#filter-state input[value='shut off']").check()
    assert visible(page) == ["vm-774"]
    wait_for(page, boots("vm-774"), "hd")
    wait_for(page, "document.querySelector('#count').textContent", f"1 of {MACHINES} shown")


def test_scrolling_makes_no_long_task(page: Page, browser: Browser) -> None:
    """None that the page needs: what comes of a busy machine is not in all of a few rounds."""

    def scroll() -> None:
        scroll_through(page)

    assert any(longest_task(browser, page, scroll) < 50 for _ in range(3))
