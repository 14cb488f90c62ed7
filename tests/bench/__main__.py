"""Print a table of what the daemon costs. Ratios count; seconds depend on the machine."""

import http.client
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import TypeVar

from mc.virsh.quoting import decode
from mc.virsh.session import Session
from tests.bench import console, distance, door, following, hosts
from tests.bench.clock import reader, timed
from tests.bench.ipmi import ipmi
from tests.daemon import Daemon
from tests.hypervisor import hypervisor
from tests.lab import Key, Laboratory, Nic

_ROUNDS = 3
_LOAD_SECONDS = 4
_READS = 1500
_BOOTS = 8

K = TypeVar("K")


def main() -> None:
    """Measure everything; about six minutes."""
    row("what", "measured", "wanted")
    row("----", "--------", "------")
    with Laboratory() as lab:
        boots(lab)
        load(lab)
    with Laboratory() as lab:
        for what in following.rows(lab):
            row(*what)
    with tempfile.TemporaryDirectory() as folder:
        latency(Path(folder))
        for what in chain(console.rows(Path(folder)), door.rows(Path(folder))):
            row(*what)
        for what in hosts.rows(Path(folder)):
            row(*what)
    for what in distance.rows():
        row(*what)
    ipmi(row)


def row(what: str, measured: str, wanted: str) -> None:
    print(f"{what:58} {measured:>22}   {wanted}", flush=True)


def boots(lab: Laboratory) -> None:
    """`pxeboot` of a machine that is off, against the bare commands; and the reboot rule."""
    machine = lab.define("boots", add=[Nic()], boot="device", boot_order=["disk"])
    plain = lab.define("plain")
    with (
        tempfile.TemporaryDirectory() as folder,
        Daemon("--connect", lab.uri, "--backup-dir", folder, "--log-level=info") as daemon,
        closing(Session("virsh", lab.uri)) as session,
    ):
        session.greet(soon())

        def bare() -> None:
            """What anyone would have to do, on a live session."""
            xml = session.run(["dumpxml", "--domain", plain.uuid, "--inactive"], soon())
            with session.document(decode(xml)) as path:
                session.run(["define", "--file", path], soon())
            session.run(["start", "--domain", plain.uuid], soon())

        def boot(verb: str) -> None:
            assert daemon.act("boots", verb).status == http.HTTPStatus.OK

        seconds: dict[str, list[float]] = {"bare": [], "boot": [], "reboot": [], "start": []}
        for number in range(_BOOTS):
            seconds["bare"].append(timed(bare))
            plain.destroy()
            seconds["boot"].append(timed(lambda: boot(("pxeboot", "diskboot")[number % 2])))  # noqa: B023
            machine.destroy()
        ratio = statistics.median(seconds["boot"]) / statistics.median(seconds["bare"])
        row("pxeboot of an off machine / dumpxml, define, start", f"{ratio:.2f}", "<= 1.2")
        for _ in range(_BOOTS):
            seconds["start"].append(timed(machine.boot))
            daemon.request("PUT", "/service/boots/boot", b'{"device": "pxe", "once": true}')
            machine.destroy()
            count = machine.boots + 1
            boot("power_on")
            machine.wait_for_boot(count)
            machine.press(Key.REBOOT)
            seconds["reboot"].append(timed(lambda: machine.wait_for_boot(count + 1)))  # noqa: B023
            machine.destroy()
        more = statistics.median(seconds["reboot"]) - statistics.median(seconds["start"])
        row("guest's reboot to its new order, s beyond a start", f"{more:.2f}", "< 1")


def soon() -> float:
    return time.monotonic() + 30


def load(lab: Laboratory) -> None:
    """Status on a real libvirtd with 20 machines, 4 connections kept alive."""
    for number in range(20):
        lab.define(f"vm-{number:02}").start()
    path = "/service/vm-07/state_controller/status"
    started = time.monotonic()
    with Daemon("--connect", lab.uri, "--log-level=info") as daemon, ExitStack() as stack:
        assert daemon.get(path).json["state"] == "running"
        first_answer = time.monotonic() - started
        ports = {
            "daemon": daemon.port,
            "constant": stack.enter_context(peer("constant", lab.uri)),
            "fork": stack.enter_context(peer("fork", lab.uri)),
        }
        rates: dict[str, list[float]] = {name: [] for name in ports}
        for _ in range(_ROUNDS):
            for name, port in ports.items():
                rates[name].append(requests_per_second(port, path))
        rate = {name: statistics.median(values) for name, values in rates.items()}
        for name in ports:
            row(f"status, requests/s: {name}", f"{rate[name]:.0f}", "")
        row("status: daemon / forked virsh", f"{rate['daemon'] / rate['fork']:.1f}", ">= 8")
        row("status: daemon / constant", f"{rate['daemon'] / rate['constant']:.2f}", ">= 0.45")
        row("memory of the daemon, MB", f"{resident(daemon.pid):.0f}", "< 60")
        sessions = [resident(pid) for pid in daemon.children()]
        row(f"memory of a virsh session, MB ({len(sessions)})", f"{max(sessions):.0f}", "<= 20")
    row("start to first answer, s", f"{first_answer:.2f}", "< 1")


def latency(folder: Path) -> None:
    """Status and list on the embedded hypervisor, with 20 and with 1000 machines."""
    with ExitStack() as stack:
        daemons = {}
        for size in (20, 1000):
            machines = [(f"vm-{number}", "running") for number in range(size)]
            uri = hypervisor(folder / f"{size}.xml", machines)
            daemons[size] = stack.enter_context(Daemon("--connect", uri, "--log-level=info"))
        status = {
            size: reader(daemon, "/service/vm-7/state_controller/status")
            for size, daemon in daemons.items()
        }
        seconds = medians(status, _READS)
        row("status at 1000 machines / at 20", f"{seconds[1000] / seconds[20]:.2f}", "<= 1.3")

        session = stack.enter_context(closing(Session("virsh", uri)))
        session.greet(soon())

        def bulk() -> None:
            session.run(["domstats", "--state", "--nowait"], soon())
            session.run(["list", "--all", "--uuid", "--id", "--name"], soon())

        lists = {"list": reader(daemons[1000], "/service/machine"), "bulk": bulk}
        times = medians(lists, 60)
        row("list of 1000 machines, ms", f"{1000 * times['list']:.1f}", "")
        row("list / its two bulk commands", f"{times['list'] / times['bulk']:.2f}", "<= 2")


@contextmanager
def peer(kind: str, uri: str) -> Iterator[int]:
    """The port of a peer that runs for the length of the block."""
    command = [sys.executable, "-m", "tests.bench.peers", kind, uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def requests_per_second(port: int, path: str) -> float:
    url = f"http://127.0.0.1:{port}{path}"
    command = ["wrk", "-t1", "-c4", f"-d{_LOAD_SECONDS}s", url]
    out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "Non-2xx" not in out, out
    found = re.search(r"Requests/sec:\s*([\d.]+)", out)
    assert found, out
    return float(found[1])


def resident(pid: int) -> float:
    """Resident memory of a process in MB, shared pages included."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert found
    return int(found[1]) / 1000


def medians(readers: dict[K, Callable[[], None]], times: int) -> dict[K, float]:
    """The median seconds of each reader, called in turns so that noise hits all alike."""
    seconds: dict[K, list[float]] = {name: [] for name in readers}
    for _ in range(times):
        for name, read in readers.items():
            start = time.perf_counter()
            read()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
