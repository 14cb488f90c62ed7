"""What strangers can do to others: costly requests, guesses, and floods of connections."""

import http.client
import socket
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from threading import Thread

from mc.users import add_user
from tests.daemon import Answer, Daemon
from tests.digest import authorization, nonce_of
from tests.hypervisor import hypervisor
from tests.stranger import Meter, bodies, claims, headers, lines, many_headers
from tests.wire import Wire

Row = tuple[str, str, str]
_PATH = "/service/vm/state_controller/status"
_FEW_THREADS = "[global]\nserver.thread_pool = 2\nservice.event_streams = 1\n"


def rows(folder: Path) -> Iterator[Row]:
    """Rows of the table, as they are measured; about a minute and a half."""
    uri = hypervisor(folder / "door.xml", [("vm", "running")])
    add_user(folder / "users", "admin", "secret")
    (folder / "few.conf").write_text(_FEW_THREADS)
    arguments = ("--connect", uri, "--users", str(folder / "users"), "--log-level=info")
    with Daemon(*arguments, "--config", str(folder / "few.conf")) as daemon:
        worst, request = _worst(Meter(daemon))
        what = request[:30].decode("latin-1").replace("\r\n", " ")
        yield f"worst request of a stranger, ms of processor ({what!r})", f"{worst:.1f}", "< 20"
    with Daemon(*arguments) as daemon:
        with _crowd("hostile", 40, daemon.port):
            seconds = [_timed(daemon, "/healthz", {})[1] for _ in range(400)]
        p99 = 1000 * statistics.quantiles(seconds, n=100)[98]
        yield "/healthz beside 40 hostile clients, p99, ms", f"{p99:.0f}", "< 100"
    with Daemon(*arguments) as daemon:
        with _crowd("guess", 60, daemon.port):
            time.sleep(1)
            tries = [_log_in(daemon) for _ in range(100)]
        let_in = sum(status == http.HTTPStatus.OK for status, _ in tries)
        p95 = statistics.quantiles([taken for _, taken in tries], n=20)[18]
        yield "right password beside 60 guessers, of 100", f"{let_in}", ">= 99"
        yield "right password beside 60 guessers, p95, s", f"{p95:.3f}", "< 0.5"
    with Daemon(*arguments) as daemon:
        with _crowd("flood", 4, daemon.port):
            resets = sum(_is_reset(daemon) for _ in range(1000))
        yield "resets elsewhere beside a flood from one address, of 1000", f"{resets}", "0"


def _worst(meter: Meter) -> tuple[float, bytes]:
    """The milliseconds that the costliest request takes, and the request."""
    costs = [
        (meter.send(request)[1], request)
        for request in chain(headers(), many_headers(), claims(), lines(), bodies())
    ]
    # Something else may have hit one of them: what a request costs is what it costs at best.
    costly = [request for _, request in sorted(costs, reverse=True)[:50]]
    return max((min(meter.send(it)[1] for _ in range(3)) / 1e6, it) for it in costly)


@contextmanager
def _crowd(kind: str, count: int, port: int) -> Iterator[None]:
    """So many who do this again and again: in another process, whose lock is not ours."""
    command = [sys.executable, "-m", "tests.bench.door", kind, str(count), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def _be_hostile(port: int) -> None:
    for request in chain(headers(), many_headers(), lines()):
        with Wire(port) as wire:
            wire.send(request)
            wire.response()


def _guess(port: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", _PATH)
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        nonce = nonce_of(Answer(answer.status, fields, answer.read()))
        while True:
            headers = authorization(_PATH, nonce, password="wrong")  # noqa: S106
            connection.request("GET", _PATH, headers=headers)
            connection.getresponse().read()


def _flood(port: int) -> None:
    kept: deque[socket.socket] = deque()
    while True:
        kept.append(
            socket.create_connection(("127.0.0.1", port), 10, source_address=("127.0.0.9", 0))
        )
        if len(kept) > 200:
            kept.popleft().close()


_KINDS: dict[str, Callable[[int], None]] = {
    "hostile": _be_hostile,
    "guess": _guess,
    "flood": _flood,
}


def main(kind: str, count: int, port: int) -> None:
    """Be so many of a kind, until standard input ends."""

    def run() -> None:
        while True:
            # Cut off, or refused; there is another try.
            with suppress(OSError, http.client.HTTPException, AssertionError):
                _KINDS[kind](port)

    for _ in range(count):
        Thread(target=run, daemon=True).start()
    print("here", flush=True)
    sys.stdin.read()


def _log_in(daemon: Daemon) -> tuple[int, float]:
    """As one who comes for the first time: the challenge is part of it."""
    start = time.perf_counter()
    nonce = nonce_of(daemon.get(_PATH))
    status, _ = _timed(daemon, _PATH, authorization(_PATH, nonce))
    return status, time.perf_counter() - start


def _is_reset(daemon: Daemon) -> bool:
    try:
        return _timed(daemon, "/healthz", {})[0] != http.HTTPStatus.OK
    except OSError:
        return True


def _timed(daemon: Daemon, path: str, fields: dict[str, str]) -> tuple[int, float]:
    start = time.perf_counter()
    answer = daemon.request("GET", path, headers=fields)
    return answer.status, time.perf_counter() - start


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
