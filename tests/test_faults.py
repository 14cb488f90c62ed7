"""libvirt and virsh fail while the daemon works: no wrong answer, no hang, no process left."""

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest

from tests.daemon import Answer, Daemon, destroy
from tests.hypervisor import hypervisor
from tests.lab import Laboratory, Machine, until

OK, CONFLICT, UNAVAILABLE, TIMEOUT = 200, 409, 503, 504
CLIENTS = 32


@pytest.fixture(scope="module")
def machine(fragile: Laboratory) -> Machine:
    machine = fragile.define("victim")
    machine.boot()
    return machine


@pytest.fixture
def daemon(fragile: Laboratory, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that soon loses its patience; when it has ended no virsh is left."""
    settings = tmp_path / "settings.conf"
    settings.write_text("[global]\nlibvirt.read_seconds = 2\nlibvirt.action_seconds = 60\n")
    with Daemon("--connect", fragile.uri, "--config", str(settings)) as daemon:
        yield daemon
        children = daemon.children()
        daemon.stop()
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def status(daemon: Daemon, name: str = "victim") -> Answer:
    return daemon.act(name, "status")


def available(answer: Answer) -> None:
    assert (answer.status, answer.json["state"]) == (OK, "running"), answer


def unavailable(answer: Answer) -> None:
    assert answer.status == UNAVAILABLE, answer
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"


def test_libvirtd_killed_while_idle_is_missed_at_once_and_found_again(
    fragile: Laboratory, machine: Machine, daemon: Daemon
) -> None:
    available(status(daemon))
    for _ in range(3):
        fragile.libvirtd.kill()
        for path in ("/service/machines", "/service/victim", "/service/nope"):
            unavailable(daemon.get(path))
        unavailable(status(daemon))
        unavailable(daemon.act("victim", "force_off"))
        fragile.libvirtd.start()
        available(status(daemon))
    assert daemon.get("/service/nope").status == 404
    assert machine.state() == "running"


def test_libvirtd_restarted_while_idle_goes_unnoticed(
    fragile: Laboratory, machine: Machine, daemon: Daemon
) -> None:
    changed = daemon.act("victim", "nmi")
    fragile.libvirtd.kill()
    fragile.libvirtd.start()
    assert (changed.status, daemon.act("victim", "nmi").status) == (OK, OK)
    available(status(daemon))


def test_libvirtd_killed_during_a_read(
    fragile: Laboratory, machine: Machine, daemon: Daemon
) -> None:
    available(status(daemon))
    for _ in range(5):
        given = len(daemon.virsh_commands())
        with ThreadPoolExecutor(1) as other:
            fragile.libvirtd.freeze()
            answer = other.submit(status, daemon)
            _wait_for_command(daemon, given)
            fragile.libvirtd.kill()
            unavailable(answer.result())
        fragile.libvirtd.start()
        available(status(daemon))


def test_libvirtd_killed_during_an_action_leaves_its_outcome_unknown(
    fragile: Laboratory, daemon: Daemon
) -> None:
    machine = fragile.define("frozen")
    machine.boot()
    number = machine.number()
    machine.freeze()
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(daemon.act, "frozen", "force_off")
        given = destroy(number, graceful=True)
        until(lambda: given in daemon.virsh_commands(), 30, "destroy")
        until(lambda: _told_to_end(machine.qemu_pid()), 30, "SIGTERM pending in the frozen QEMU")
        fragile.libvirtd.kill()
        unavailable(answer.result())
        assert answer.result().json["outcome"] == "unknown"
    machine.thaw()
    fragile.libvirtd.start()
    available(status(daemon))
    assert daemon.virsh_commands().count(given) == 1


def _wait_for_command(daemon: Daemon, given: int) -> None:
    """Wait until more virsh commands have been given than there were."""
    until(lambda: len(daemon.virsh_commands()) > given, 30, "a command under way")


def _told_to_end(pid: int) -> bool:
    """Whether SIGTERM waits for a stopped process: proc(5), ShdPnd."""
    pending = re.search(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return pending is not None and bool(int(pending[1], 16) & 1 << (signal.SIGTERM - 1))


def test_libvirtd_that_stops_answering(
    fragile: Laboratory, machine: Machine, daemon: Daemon
) -> None:
    available(status(daemon))
    fragile.libvirtd.freeze()
    with ThreadPoolExecutor(8) as clients:
        paths = ["/service/machines", "/service/victim", "/service/nope", "/service/5"] * 2
        answers = list(clients.map(daemon.get, paths))
    # Who asks when it is known already is told so at once.
    assert {answer.status for answer in answers} <= {TIMEOUT, UNAVAILABLE}
    refused = daemon.act("victim", "force_off")
    assert refused.status in (TIMEOUT, UNAVAILABLE)
    assert "outcome" not in refused.json
    fragile.libvirtd.thaw()
    until(lambda: daemon.act("victim", "status").status == OK, 30, "libvirt")
    assert machine.state() == "running"


def test_daemon_ends_although_libvirt_does_not_answer(
    fragile: Laboratory, machine: Machine, tmp_path: Path
) -> None:
    """Also if a session is just connecting, and whatever the deadlines are."""
    settings = tmp_path / "settings.conf"
    settings.write_text("[global]\nlibvirt.read_seconds = 600\nlibvirt.action_seconds = 600\n")
    with Daemon("--connect", fragile.uri, "--config", str(settings)) as daemon:
        available(status(daemon))
        fragile.libvirtd.freeze()
        with ThreadPoolExecutor(4) as clients:
            for path in ("/service/machines", "/service/victim", "/service/5", "/service/nope"):
                clients.submit(daemon.get, path)
            until(lambda: len(daemon.children()) >= 2, 30, "a virsh that connects")
            children = daemon.children()
            daemon.stop()
        fragile.libvirtd.thaw()
    assert daemon.process.returncode == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_daemon_that_is_killed_leaves_no_virsh(
    fragile: Laboratory, machine: Machine, tmp_path: Path
) -> None:
    """Those that read commands see the end of them; those that wait for events are told."""
    with Daemon("--connect", fragile.uri, "--backup-dir", str(tmp_path)) as daemon:
        available(status(daemon))
        streams = {until(lambda: daemon.stream("event"), 30, "stream of libvirt's events")}
        streams |= {until(lambda: daemon.stream("qemu-monitor-event"), 30, "stream of QEMU's")}
        children = daemon.children()
        assert streams < set(children)
        daemon.kill()
        until(
            lambda: [pid for pid in children if Path(f"/proc/{pid}").exists()],
            30,
            "end of every virsh",
            lambda left: not left,
        )


def test_virsh_killed_while_idle(daemon: Daemon, machine: Machine) -> None:
    available(status(daemon))
    assert daemon.act("victim", "nmi").status == OK
    for pid in daemon.children():
        os.kill(pid, signal.SIGKILL)
    available(status(daemon))
    assert daemon.act("victim", "nmi").status == OK


def test_virsh_killed_during_a_read_is_replaced_and_asked_again(
    fragile: Laboratory, machine: Machine, daemon: Daemon
) -> None:
    available(status(daemon))
    given = len(daemon.virsh_commands())
    with ThreadPoolExecutor(1) as other:
        fragile.libvirtd.freeze()
        answer = other.submit(status, daemon)
        _wait_for_command(daemon, given)
        for pid in daemon.children():
            os.kill(pid, signal.SIGKILL)
        fragile.libvirtd.thaw()
        available(answer.result())


def test_virsh_killed_during_an_action_is_not_asked_again(
    fragile: Laboratory, daemon: Daemon
) -> None:
    machine = fragile.define("once", obeys_button=False)
    machine.boot()
    assert daemon.act("once", "nmi").status == OK
    before = set(daemon.children())
    assert daemon.act("once", "nmi").status == OK
    machine.freeze()
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(daemon.act, "once", "force_reset")
        given = f"reset --domain {machine.uuid}"
        until(lambda: given in daemon.virsh_commands(), 30, "reset")
        for pid in before | set(daemon.children()):
            os.kill(pid, signal.SIGKILL)
        assert answer.result().status == UNAVAILABLE
        assert answer.result().json["outcome"] == "unknown"
    machine.thaw()
    assert daemon.virsh_commands().count(given) == 1


def test_thousand_machines(tmp_path: Path) -> None:
    states = cycle(["running", "shut off", "paused"])
    machines = [(f"vm {number}", next(states)) for number in range(1000)]
    with Daemon("--connect", hypervisor(tmp_path / "machines.xml", machines)) as daemon:
        listed = daemon.get("/service/machines").json
        assert [(one["name"], one["state"]) for one in listed] == sorted(machines)
        for name, state in machines[::97]:
            assert daemon.status(name)["state"] == state
            assert daemon.act(name, "power_on").json["state"] == "running"


def test_many_clients_on_many_machines(fragile: Laboratory, daemon: Daemon) -> None:
    """Verbs of all kinds from 32 clients at once; at the end all agree with libvirt."""
    machines = [fragile.define(f"mixed-{number}") for number in range(6)]
    verbs = ["power_on", "force_off", "status", "force_reset", "power_cycle", "status", "nmi"]
    work = [(machines[i % 6].name, verbs[i % len(verbs)]) for i in range(4 * CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda job: daemon.act(job[0], job[1], timeout=120), work))
    assert {answer.status for answer in answers} <= {OK, CONFLICT}
    for machine in machines:
        assert daemon.status(machine.name)["state"] == machine.state()
        if machine.state() != "shut off":
            machine.destroy()
    # At most 16 sessions for reading, 4 for lists and one for each action at once; two streams.
    assert len(daemon.children()) <= 16 + 4 + CLIENTS + 2


def test_many_clients_on_one_session(tmp_path: Path) -> None:
    """On `test:` there is one session for everything, and it loses nothing of its state."""
    machines = [(f"vm-{number}", "running") for number in range(8)]
    verbs = ["cyclepower", "status", "power_cycle", "force_off", "power_on", "status", "nmi"]
    work = [(f"vm-{i % 8}", verbs[i % len(verbs)]) for i in range(20 * CLIENTS)]
    with Daemon("--connect", hypervisor(tmp_path / "machines.xml", machines)) as daemon:
        assert daemon.act("vm-0", "force_off").status == OK
        (session,) = daemon.children()
        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(lambda job: daemon.act(job[0], job[1]), work))
        assert {answer.status for answer in answers} <= {OK, CONFLICT}
        assert daemon.children() == [session]
        last = {name: daemon.status(name)["state"] for name, _ in machines}
        listed = {one["name"]: one["state"] for one in daemon.get("/service/machines").json}
        assert last == listed
