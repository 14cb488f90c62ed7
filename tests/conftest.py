"""What tests share: one laboratory, and one daemon on it."""

from collections.abc import Iterator

import pytest

from tests.daemon import Daemon
from tests.lab import Laboratory


@pytest.fixture(scope="session")
def lab() -> Iterator[Laboratory]:
    """Real libvirt and QEMU. Whoever disturbs its libvirtd leaves it running."""
    with Laboratory() as laboratory:
        yield laboratory


@pytest.fixture(scope="session")
def daemon_on_lab(lab: Laboratory) -> Iterator[Daemon]:
    with Daemon("--connect", lab.uri) as daemon:
        yield daemon
