"""A stranger's requests, each as large as it may be: none costs much, and all answers are ours.

Measured by processor time and as a ratio to that of a plain request, so that a busy host makes no
difference.
"""

from collections.abc import Iterator
from itertools import chain

import pytest

from mc.users import add_user
from mc.web.server.headers import EVERY_ANSWER, SERVER
from tests.daemon import Daemon
from tests.hypervisor import hypervisor
from tests.stranger import HEAD, PLAIN, Meter, bodies, claims, headers, lines, many_headers
from tests.wire import Response

# Requests of `/openapi.json`, of a user or refused, at the cost of one that is as nasty as can be.
MOST = 12
OURS = {name.lower(): value for name, value in {**EVERY_ANSWER, **SERVER}.items()}


@pytest.fixture(scope="module", params=["strangers", "users"])
def meter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Meter]:
    """Of a daemon that lets in nobody of these, and of one that lets in everybody."""
    folder = tmp_path_factory.mktemp("stranger")
    uri = hypervisor(folder / "machines.xml", [("vm", "running")])
    add_user(folder / "users", "admin", "secret")
    users = ["--users", str(folder / "users")] if request.param == "strangers" else []
    with Daemon("--connect", uri, "--backup-dir", str(folder), *users) as daemon:
        yield Meter(daemon)
        assert "Traceback" not in daemon.log()


def check(response: Response, request: bytes) -> None:
    """Whatever was asked: it is an answer of the service's own."""
    told = {name: response.headers.get(name) for name in OURS}
    assert told == OURS, (request[:200], response)
    if response.status >= 400:
        assert response.headers["content-type"] == "application/problem+json", request[:200]
        assert response.json["status"] == response.status
        assert len(response.body) < 4 * HEAD, (request[:200], len(response.body))
    assert response.status < 500 or response.status in (501, 505), (request[:200], response)


def check_all(meter: Meter, requests: Iterator[bytes]) -> None:
    plain = meter.cost(PLAIN, 20)
    for request in requests:
        response, cost = meter.send(request)
        check(response, request)
        if cost <= MOST * plain:
            continue
        # It may have been something else; what a request costs is what it costs at best.
        costs = [(meter.cost(request), meter.cost(PLAIN, 5)) for _ in range(5)]
        assert any(cost <= MOST * plain for cost, plain in costs), (request[:200], costs)


def test_header_fields(meter: Meter) -> None:
    check_all(meter, chain(headers(), many_headers(), claims()))


def test_request_lines(meter: Meter) -> None:
    check_all(meter, lines())


def test_bodies(meter: Meter) -> None:
    check_all(meter, bodies())
