"""How long things take."""

import http.client
import time
from collections.abc import Callable

from tests.daemon import Daemon

PATIENCE = 60.0


def timed(what: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def reader(daemon: Daemon, path: str) -> Callable[[], None]:
    """What reads a URL on a connection of its own that is kept alive."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)

    def read() -> None:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        assert response.status == http.HTTPStatus.OK, body

    return read
