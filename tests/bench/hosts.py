"""What two hundred hosts cost: embedded hypervisors of 50 machines each, and two real libvirtds."""

import os
import re
import select
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.bench.clock import PATIENCE, reader, timed
from tests.daemon import Daemon
from tests.hypervisor import hypervisor
from tests.lab import Laboratory, until

_HOSTS, _MACHINES, _FROZEN = 200, 50, 20
_SWEEPS = 15
_READS = 600
_HANGING = 60

Row = tuple[str, str, str]
"""What was measured, the figure, and what is wanted."""


def rows(folder: Path) -> Iterator[Row]:
    """About a minute and a half."""
    uris = {
        f"h{number:03}": hypervisor(
            folder / f"{number}.xml",
            [(f"vm-{number}-{one}", "running") for one in range(_MACHINES)],
        )
        for number in range(_HOSTS)
    }
    began = time.monotonic()
    with Daemon("--config", str(settings(folder, uris)), "--log-level=info") as many:
        assert len(many.get("/hosts").json) == _HOSTS
        yield "200 hosts: start to first answer, s", f"{time.monotonic() - began:.2f}", "< 1"
        until(lambda: states(many) == {"up": _HOSTS}, PATIENCE, "all hosts")
        yield "200 hosts: start to all up, s", f"{time.monotonic() - began:.1f}", "< 10"
        yield from _running(many, uris)
    yield from _hanging()


def _running(many: Daemon, uris: Mapping[str, str]) -> Iterator[Row]:
    with Daemon("--connect", uris["h000"], "--log-level=info") as one:
        yield from _memory(many)
        yield from _status(many, one)
    yield from _lists(many, uris)
    yield from _frozen(many)


def settings(folder: Path, uris: Mapping[str, str]) -> Path:
    """A file of settings for hosts with these URIs."""
    file = folder / "hosts.conf"
    sections = [f'[/hosts/{name}]\nlibvirt.uri = "{uri}"\n' for name, uri in uris.items()]
    file.write_text(f'[global]\nboot.backup_dir = "{folder}/backups"\n' + "".join(sections))
    return file


def states(daemon: Daemon) -> dict[str, int]:
    """How many hosts are in each state."""
    found = [host["state"] for host in daemon.get("/hosts").json]
    return {state: found.count(state) for state in set(found)}


def _memory(daemon: Daemon) -> Iterator[Row]:
    pids = [daemon.pid, *daemon.children()]
    pss = 0
    for pid in pids:
        found = re.search(r"^Pss:\s*(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        pss += int(found[1]) if found else 0
    yield "200 hosts idle: memory in all, PSS, MB", f"{pss / 1024:.0f}", "< 1024"
    yield "200 hosts idle: processes a host", f"{(len(pids) - 1) / _HOSTS:.2f}", "<= 2"


def _status(many: Daemon, one: Daemon) -> Iterator[Row]:
    path = "/service/vm-0-7/state_controller/status"
    reads = {daemon: reader(daemon, path) for daemon in (many, one)}
    seconds: dict[Daemon, list[float]] = {many: [], one: []}
    for _ in range(_READS):
        for daemon, read in reads.items():
            seconds[daemon].append(timed(read))
    ratio = statistics.median(seconds[many]) / statistics.median(seconds[one])
    yield "status with 200 hosts / with one", f"{ratio:.2f}", "<= 1.2"


def _lists(daemon: Daemon, uris: Mapping[str, str]) -> Iterator[Row]:
    read = reader(daemon, "/service/machines")
    with raw_sweep(uris) as sweep:
        seconds: dict[str, list[float]] = {"list": [], "raw": []}
        for _ in range(_SWEEPS):
            seconds["list"].append(timed(read))
            seconds["raw"].append(timed(sweep))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    yield "list of 200 x 50 machines, s", f"{medians['list']:.2f}", ""
    ratio = medians["list"] / medians["raw"]
    yield "list of 200 x 50 machines / raw sweep by one poll", f"{ratio:.2f}", "<= 2"


def _frozen(daemon: Daemon) -> Iterator[Row]:
    pids = daemon.children()[:_FROZEN]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = daemon.get("/service/machines")
        seconds = time.monotonic() - began
        hosts = len({machine["host"] for machine in answer.json})
        yield (
            f"the same with {_FROZEN} hosts frozen: s, hosts in it",
            f"{seconds:.2f}, {hosts}",
            "<= 1.2, 180",
        )
    finally:
        for pid in pids:
            # One that did not answer may have been ended.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _hanging() -> Iterator[Row]:
    """Two libvirtds: one is frozen, killed, and comes back; the other one serves meanwhile."""
    with ExitStack() as stack:
        a, b = (stack.enter_context(Laboratory()) for _ in range(2))
        a.define("here").start()
        b.define("there").start()
        uris = {"a": a.uri, "b": b.uri}
        daemon = stack.enter_context(
            Daemon("--config", str(settings(Path(a.folder), uris)), "--log-level=info")
        )
        until(lambda: states(daemon) == {"up": 2}, PATIENCE, "both hosts")
        read = reader(daemon, "/service/here/state_controller/status")
        calm = sorted(timed(read) for _ in range(_READS))
        b.libvirtd.freeze()
        threads = [
            threading.Thread(target=lambda: daemon.get("/service/there/state_controller/status"))
            for _ in range(_HANGING)
        ]
        for thread in threads:
            thread.start()
        busy = sorted(timed(read) for _ in range(_READS))
        for thread in threads:
            thread.join()
        p99 = tuple(1000 * each[int(0.99 * _READS)] for each in (calm, busy))
        yield (
            f"status on a, p99, ms: alone, while {_HANGING} hang on frozen b",
            f"{p99[0]:.1f}, {p99[1]:.1f}",
            "< 50",
        )
        b.libvirtd.thaw()
        b.libvirtd.kill()
        until(lambda: states(daemon).get("down"), PATIENCE, "a host that is down")
        b.libvirtd.start()
        began = time.monotonic()
        until(lambda: states(daemon) == {"up": 2}, PATIENCE, "the host that is back")
        seconds = time.monotonic() - began
        there = daemon.get("/service/there").json["host"]
        yield "a host that is back: seen after, s; its machines", f"{seconds:.1f}, {there}", "< 15"


@contextmanager
def raw_sweep(uris: Mapping[str, str]) -> Iterator[Callable[[], None]]:
    """Both bulk commands on a live session of each, read by one loop of poll."""
    command = b"domstats --state --nowait; list --all --uuid --id --name; echo do''ne\n"
    processes = [
        subprocess.Popen(
            ["virsh", "-q", "-c", uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C", "TERM": "dumb", "VIRSH_HISTSIZE": "0"},
        )
        for uri in uris.values()
    ]

    def sweep() -> None:
        poll = select.poll()
        heard: dict[int, bytes] = {}
        for process in processes:
            assert process.stdin
            assert process.stdout
            poll.register(process.stdout, select.POLLIN)
            heard[process.stdout.fileno()] = b""
            process.stdin.write(command)
            process.stdin.flush()
        while heard:
            for descriptor, _ in poll.poll(1000):
                heard[descriptor] += os.read(descriptor, 1 << 16)
                if b"done" in heard[descriptor][-16:]:
                    del heard[descriptor]
                    poll.unregister(descriptor)

    try:
        sweep()
        yield sweep
    finally:
        for process in processes:
            process.communicate()
