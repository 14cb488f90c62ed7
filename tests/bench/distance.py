"""How many round trips to libvirt a request takes: what counts where libvirt is far away.

`python -m tests.bench.distance` prints them alone.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

from tests.daemon import Daemon
from tests.lab import Laboratory, Machine, Nic
from tests.relay import Relay

_ONE_WAY = 0.025
# Seconds after which the daemon has come to rest: it relies on the streams of events.
_AT_REST = 6.5
# What is counted is what was asked for, and now and then something of the daemon's own beside it.
_TIMES = 3

Row = tuple[str, str, str]
"""What was measured, the figure, and what is wanted."""


def rows() -> Iterator[Row]:
    """Of a machine that was seen before, called by its name; libvirt is 50 ms away and back."""
    with (
        Laboratory() as lab,
        Relay(lab.libvirtd.socket, _ONE_WAY, lab.folder / "far") as far,
        tempfile.TemporaryDirectory() as folder,
    ):
        machine = lab.define("vm", add=[Nic()])
        machine.boot()
        path = str(Path(folder) / "backups")
        with Daemon("--connect", far.uri, "--backup-dir", path, "--log-level=info") as daemon:
            assert daemon.get("/service/machines").status == HTTPStatus.OK
            time.sleep(_AT_REST)
            for what, prepare, ask in _requests(daemon, machine):
                trips, seconds = [], []
                for _ in range(_TIMES):
                    prepare()
                    # The event of that has been looked into.
                    time.sleep(1)
                    before, start = far.calls, time.perf_counter()
                    ask()
                    seconds.append(time.perf_counter() - start)
                    trips.append(far.calls - before)
                yield f"round trips: {what}", f"{min(trips)} ({min(seconds):.2f} s)", ""


def _requests(
    daemon: Daemon, machine: Machine
) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Each with what brings the machine where it is to be before, and the request."""

    def on() -> None:
        put("default")
        if machine.state() == "shut off":
            machine.boot()

    def off() -> None:
        if machine.state() != "shut off":
            machine.destroy()
        put("default")

    def get(path: str) -> Callable[[], None]:
        def ask() -> None:
            assert daemon.get(f"/service/vm{path}").status == HTTPStatus.OK

        return ask

    def put(device: str) -> None:
        body = f'{{"device": "{device}"}}'.encode()
        answer = daemon.request("PUT", "/service/vm/boot", body)
        assert answer.status == HTTPStatus.OK, answer

    status = "/state_controller/status"
    for state, bring in (("off", off), ("on", on)):
        yield f"GET /service/M, {state}", bring, get("")
        yield f"status, {state}", bring, get(status)
        yield f"GET boot, {state}", bring, get("/boot")
        yield f"PUT boot pxe, {state}", bring, lambda: put("pxe")
    yield "power_on, off", off, get("/state_controller/power_on")
    yield "power_on, on: holds", on, get("/state_controller/power_on")
    yield "power_off, on", on, get("/state_controller/power_off")
    yield "force_off, on", on, get("/state_controller/force_off")
    yield "force_reset, on", on, get("/state_controller/force_reset")
    yield "power_cycle, on", on, get("/state_controller/power_cycle")
    yield "pxeboot, off", off, get("/state_controller/pxeboot")
    yield "pxeboot?grace=0, on", on, get("/state_controller/pxeboot?grace=0")
    yield "pxeboot?grace=20, on", on, get("/state_controller/pxeboot?grace=20")
    yield "pxeboot?once=true, off", off, get("/state_controller/pxeboot?once=true")


if __name__ == "__main__":
    for row in rows():
        print("{:40} {:>16} {}".format(*row), flush=True)
