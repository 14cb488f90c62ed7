"""How soon a change that is made elsewhere is told, and what a picture of a screen costs."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus

from mc.virsh.session import Session
from tests.daemon import Daemon
from tests.event_source import EventSource
from tests.lab import Laboratory

_CHANGES = 20
_PICTURES = 50
_MANY = 1000
# Seconds after which the watch relies on the stream of events.
_RELIED_ON = 6.0
# Seconds after which a change is not delayed by the one before.
_CALM = 0.4
_VIDEO = "<video><model type='vga'/></video>"

Row = tuple[str, str, str]
"""What was measured, the figure, and what is wanted."""


def rows(lab: Laboratory) -> Iterator[Row]:
    """With one machine and with a thousand; it defines them."""
    machine = lab.define("screen", devices=_VIDEO)
    machine.boot()
    with (
        Daemon("--connect", lab.uri, "--log-level=info") as daemon,
        closing(Session("virsh", lab.uri)) as session,
    ):
        session.greet(_soon())

        def run(*command: str) -> None:
            session.run(command, _soon())

        yield _latency(daemon, run, machine.uuid, 1, _CALM)
        for number in range(1, _MANY):
            with session.document(_domain(number)) as path:
                run("define", "--file", path)
        yield _latency(daemon, run, machine.uuid, _MANY, _CALM)
        yield _latency(daemon, run, machine.uuid, _MANY, 0)
        yield _picture(daemon)


def _latency(
    daemon: Daemon, run: Callable[..., None], uuid: str, machines: int, calm: float
) -> Row:
    """From the end of virsh's command to the event at the client, over HTTP."""
    seconds = _seconds_to_be_told(daemon, run, uuid, calm)
    median, worst = (1000 * one(seconds) for one in (statistics.median, max))
    what = "change by virsh to its event" if calm else "change after change to its event"
    what += f", {machines} machines, ms"
    return what, f"{median:.0f}, worst {worst:.0f}", "< 1000"


def _seconds_to_be_told(
    daemon: Daemon, run: Callable[..., None], uuid: str, calm: float
) -> list[float]:
    """Of each change; so many seconds pass between one and the next."""
    seconds = []
    with EventSource(daemon) as events:
        assert events.wait_for("machines")
        # Until then it is polled as well, which could hide that no event came.
        time.sleep(_RELIED_ON)
        for number in range(_CHANGES):
            command, state = (("suspend", "paused"), ("resume", "running"))[number % 2]
            time.sleep(calm)
            run(command, "--domain", uuid)
            start = time.perf_counter()
            events.wait_for_machine("screen", state)
            seconds.append(time.perf_counter() - start)
    return seconds


def _picture(daemon: Daemon) -> Row:
    seconds = []
    for _ in range(_PICTURES):
        start = time.perf_counter()
        assert daemon.get("/service/screen/screenshot").status == HTTPStatus.OK
        seconds.append(time.perf_counter() - start)
    return "picture of a screen, ms", f"{1000 * statistics.median(seconds):.1f}", ""


def _domain(number: int) -> str:
    return (
        f"<domain type='qemu'><name>many-{number}</name><memory unit='MiB'>8</memory>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
    )


def _soon() -> float:
    return time.monotonic() + 30
