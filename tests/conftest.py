"""What tests share: laboratories, a daemon on one of them, and a browser for each module."""

import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import Console, chromium, console
from tests.daemon import Daemon
from tests.lab import Laboratory


def pytest_configure() -> None:
    """A shell that starts pytest in the background has all that it starts ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def lab() -> Iterator[Laboratory]:
    """Real libvirt and QEMU for all. Whoever disturbs its libvirtd leaves it running."""
    with Laboratory() as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def fragile() -> Iterator[Laboratory]:
    """A laboratory of the module's own, to break."""
    with Laboratory() as laboratory:
        yield laboratory


@pytest.fixture(scope="session")
def daemon_on_lab(lab: Laboratory) -> Iterator[Daemon]:
    with Daemon("--connect", lab.uri) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def shown(browser: Browser, daemon: Daemon) -> Iterator[Console]:
    """The console page of the module's own daemon."""
    with console(browser, daemon) as shown:
        yield shown
