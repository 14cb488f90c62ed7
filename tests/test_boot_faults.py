"""The daemon, libvirtd and the disk fail while a boot order is set: nothing is lost.

The moments of the kills are random, but the same in each run.
"""

import random
import re
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from mc.domain_xml import order
from mc.domain_xml.order import Device
from tests.daemon import Answer, Daemon
from tests.domains import without_boot
from tests.hypervisor import hypervisor
from tests.lab import Cdrom, Laboratory, Machine, Nic, until

OK, CONFLICT, UNAVAILABLE, INSUFFICIENT_STORAGE = 200, 409, 503, 507
AT_ONCE = 3
"""Machines on which a request is under way when the daemon is killed."""

BACKUP_NAME = re.compile(r"[\w-]+\.xml\.\d{8}T\d{6}\.\d{6}Z\.backup")
STREAMS = {"event", "qemu-monitor-event"}
VERBS: dict[Device, str] = {"pxe": "pxeboot", "disk": "diskboot"}
BANNERS = {"pxe": "network", "disk": "disk"}


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def daemon(fragile: Laboratory, backups: Path) -> Iterator[Daemon]:
    with Daemon("--connect", fragile.uri, "--backup-dir", str(backups)) as daemon:
        yield daemon


def define(lab: Laboratory, name: str, *, obeys_button: bool = True) -> Machine:
    """A machine that is off and would boot from its disk; each device says that it was booted."""
    return lab.define(
        name,
        obeys_button=obeys_button,
        add=[Nic(), Cdrom()],
        boot="device",
        boot_order=["disk", "network", "cdrom"],
    )


@contextmanager
def removed(machines: list[Machine]) -> Iterator[list[Machine]]:
    """The machines for the length of the block."""
    yield machines
    for machine in machines:
        switch_off(machine)
        machine.virsh("undefine")


def switch_off(machine: Machine) -> None:
    if machine.state() != "shut off":
        machine.destroy()


def boot_once(daemon: Daemon, name: str, verb: str, query: str = "") -> Answer | None:
    """The answer, None if the daemon has died first."""
    with suppress(OSError, HTTPException):
        return daemon.act(name, verb, query, timeout=120)
    return None


def sessions(uri: str) -> list[str]:
    """The virsh processes of daemons that take commands; one that is killed leaves them behind."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_text(errors="replace").split("\0")
            if words[1:4] == ["-q", "-c", uri] and not STREAMS & set(words):
                found.append(file.parent.name)
    return found


def killed_during(
    daemon: Daemon, uri: str, work: list[Callable[[], object]], moments: list[float]
) -> None:
    """Do all the work at once, and kill the daemon when each has gone on for its own moment.

    Moments are in seconds. Returns when nothing that the daemon has begun goes on.
    """
    last = max(moments)
    killed = threading.Event()

    def in_time(do: Callable[[], object], moment: float) -> None:
        if not killed.wait(last - moment):
            do()

    with ThreadPoolExecutor(len(work)) as clients:
        for do, moment in zip(work, moments, strict=True):
            clients.submit(in_time, do, moment)
        threading.Event().wait(last)
        daemon.kill()
        killed.set()
    # What a virsh has read already it still does, and libvirtd what virsh has begun.
    until(lambda: sessions(uri), 60, "end of the daemon's sessions", lambda left: not left)


def moment_in(generator: random.Random, seconds: float) -> float:
    """A moment in work of this duration, or just after it.

    Early ones are the likelier: most of the time is the machine's own start, at the end.
    """
    return 1.2 * seconds * generator.random() ** 3


def duration(do: Callable[[], object]) -> float:
    begun = time.monotonic()
    do()
    return time.monotonic() - begun


def test_daemon_killed_while_it_sets_an_order(fragile: Laboratory, backups: Path) -> None:
    """The order is the old or the new one, a backup of the old precedes the new, and it boots."""
    machines = [define(fragile, f"order-{number}") for number in range(AT_ONCE)]
    generator = random.Random(1)
    known = {machine.name: {machine.xml().strip()} for machine in machines}
    outcomes: set[bool] = set()
    with removed(machines):
        with Daemon("--connect", fragile.uri, "--backup-dir", str(backups)) as daemon:
            seconds = duration(lambda: booted_by_all(daemon, machines, "pxeboot"))
        for machine in machines:
            machine.destroy()
        for _ in range(51 // AT_ONCE):
            before = {machine.name: machine.xml() for machine in machines}
            asked: dict[str, Device] = {
                name: "disk" if first(xml) != "disk" else "pxe" for name, xml in before.items()
            }
            moments = [moment_in(generator, seconds) for _ in machines]
            with Daemon("--connect", fragile.uri, "--backup-dir", str(backups)) as daemon:
                work = [
                    request(daemon, machine, VERBS[asked[machine.name]]) for machine in machines
                ]
                killed_during(daemon, fragile.uri, work, moments)
            for machine in machines:
                old, now = before[machine.name], machine.xml()
                new = order.with_order(old, asked[machine.name])
                assert now in (old, new)
                outcomes.add(now == new)
                known[machine.name] |= {old.strip(), new.strip()}
                files = whole_backups(backups, machine.name, known[machine.name])
                if now == new:
                    assert files[-1].read_text("utf-8").strip() == old.strip()
                if machine.state() == "shut off":
                    machine.start()
                machine.destroy()
    # Otherwise the kills came all too early or all too late.
    assert outcomes == {False, True}


def first(xml: str) -> str:
    """The role of the device that is tried first."""
    return order.read(xml).order.labels[0].partition(":")[0]


def request(daemon: Daemon, machine: Machine, verb: str, query: str = "") -> Callable[[], object]:
    return lambda: boot_once(daemon, machine.name, verb, query)


def booted_by_all(daemon: Daemon, machines: list[Machine], verb: str, query: str = "") -> None:
    """Do the verb on all machines at once, and see that it succeeds."""
    with ThreadPoolExecutor(len(machines)) as clients:
        answers = clients.map(lambda machine: daemon.act(machine.name, verb, query), machines)
        assert [answer.status for answer in answers] == [OK] * len(machines)


def whole_backups(folder: Path, name: str, contents: set[str]) -> list[Path]:
    """A machine's backups, the oldest first, each of which has one of these contents."""
    paths = sorted(folder.iterdir())
    backups = [path for path in paths if not path.name.startswith(".")]
    assert all(BACKUP_NAME.fullmatch(path.name) for path in backups)
    own = [path for path in backups if path.name.startswith(f"{name}.xml.")]
    assert all(path.read_text("utf-8").strip() in contents for path in own)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths)
    return own


def test_daemon_killed_while_it_boots_once(fragile: Laboratory, backups: Path) -> None:
    """A mark boots the network once at most, and then the order is what it was."""
    machines = [define(fragile, f"once-{number}") for number in range(AT_ONCE)]
    generator = random.Random(2)
    found = {machine.name: machine.xml() for machine in machines}
    outcomes: set[tuple[Device | None, Device | None]] = set()
    with removed(machines):
        with Daemon("--connect", fragile.uri, "--backup-dir", str(backups)) as daemon:
            once = "?grace=0&once=true"
            seconds = duration(lambda: booted_by_all(daemon, machines, "pxeboot", once))
        for machine in machines:
            machine.wait_for_boots("network")
        for _ in range(5):
            for machine in machines:
                switch_off(machine)
            before = {machine.name: len(machine.booted) for machine in machines}
            moments = [moment_in(generator, seconds) for _ in machines]
            with Daemon("--connect", fragile.uri, "--backup-dir", str(backups)) as daemon:
                work = [request(daemon, machine, "pxeboot", once) for machine in machines]
                killed_during(daemon, fragile.uri, work, moments)
            for machine in machines:
                # That it has begun may not be dealt with yet, nor may the mark be used.
                assert order.without_marks(machine.xml()) == found[machine.name]
                note = order.read(machine.xml())
                assert {note.once, note.begun} <= {None, "pxe"}
                if machine.state() == "running":
                    assert (note.once, note.begun) == (None, "pxe")
                    assert order.read(machine.virsh("dumpxml")).running == "pxe"
                    machine.wait_for_boot(before[machine.name] + 1)
                outcomes.add((note.once, note.begun))
            with Daemon("--connect", fragile.uri, "--backup-dir", str(backups)) as daemon:
                for machine in machines:
                    boots = machine.boots
                    off = machine.state() == "shut off"
                    answer = daemon.act(machine.name, "power_on" if off else "power_cycle")
                    assert answer.status == OK, answer
                    machine.wait_for_boot(boots + 1)
            for machine in machines:
                marked = machine.booted[before[machine.name] :]
                assert marked.count("network") <= 1
                assert set(marked) <= {"network", "disk"}
                xml = machine.xml()
                if machine.booted[-1] == "network":
                    # The mark was not used before this last start, by which the machine runs.
                    assert xml == order.begun(order.with_once(found[machine.name], "pxe"))
                else:
                    assert xml == found[machine.name]
                whole_backups(backups, machine.name, {found[machine.name].strip()})
    # Otherwise the kills came all too early or all too late.
    assert len(outcomes) > 1


def test_many_clients_on_one_machine(fragile: Laboratory, daemon: Daemon, backups: Path) -> None:
    """Boot verbs and orders from 20 clients at once: the last one wins, and wins all of it."""
    clients = 20

    def ask(number: int) -> Answer:
        device: Device = "pxe" if number % 2 else "disk"
        if number % 4 < 2:
            body = b'{"device": "%s"}' % device.encode()
            return daemon.request("PUT", "/service/crowded/boot", body, timeout=120)
        return daemon.act("crowded", VERBS[device], "?grace=0", timeout=120)

    with removed([define(fragile, "crowded")]) as (machine,):
        found = machine.xml()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(ask, range(2 * clients)))
        assert {answer.status for answer in answers} <= {OK, CONFLICT}
        assert [answer for answer in answers if answer.status == OK]
        now = machine.xml()
        assert without_boot(now) == without_boot(found)
        labels = order.read(found).order.labels
        disk, network, cdrom = labels
        upcoming = order.read(now)
        assert upcoming.order.labels in (labels, (network, disk, cdrom))
        assert upcoming.default.labels == labels
        assert upcoming.asked == ("disk" if upcoming.order.labels == labels else "pxe")
        live = order.read(machine.virsh("dumpxml")).order
        assert daemon.get("/service/crowded/boot").json == {
            "order": list(upcoming.order.labels),
            "pending": live != upcoming.order,
            "device": upcoming.asked,
            "once": None,
            "running_once": None,
            "ended_once": None,
            "default": list(labels),
        }
        assert (machine.state(), daemon.status("crowded")["state"]) == ("running", "running")
        versions = {found.strip(), now.strip()}
        versions |= {order.with_order(now, device).strip() for device in VERBS}
        assert whole_backups(backups, "crowded", versions)
        booted = machine.boots
        assert daemon.act("crowded", "power_cycle").status == OK
        # The machine may have been switched off before an earlier boot had come to its banner.
        until(lambda: machine.boots, 30, "a boot", lambda boots: boots > booted)
        assert machine.booted[-1] == {disk: "disk", network: "network"}[upcoming.order.labels[0]]


def answered(answer: Answer) -> None:
    """Success, or a clear error."""
    assert answer.status in (OK, UNAVAILABLE), answer
    if answer.status == UNAVAILABLE:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "1"
        assert answer.json["detail"]


def is_waiting(daemon: Daemon, machine: Machine) -> bool:
    """Whether the guest has been asked to shut down, and the daemon waits for it."""
    commands = daemon.virsh_commands()
    asked = f"shutdown --domain {machine.uuid}"
    return asked in commands and commands[-1] == f"domid --domain {machine.uuid}"


def test_libvirtd_restarted_in_the_grace_period(fragile: Laboratory, daemon: Daemon) -> None:
    with removed([define(fragile, "graced", obeys_button=False)]) as (machine,):
        machine.boot()
        found = machine.xml()
        with ThreadPoolExecutor(1) as other:
            answer = other.submit(daemon.act, "graced", "pxeboot", "?grace=3", timeout=120)
            until(lambda: is_waiting(daemon, machine), 30, "wait for the guest")
            fragile.libvirtd.kill()
            fragile.libvirtd.start()
        assert (answer.result().status, answer.result().json["changed"]) == (OK, True)
        machine.wait_for_boots("disk", "network")
        assert machine.xml() == order.with_order(found, "pxe")
        assert daemon.get("/service/graced/boot").json["pending"] is False


def test_libvirtd_away_at_the_end_of_the_grace_period(
    fragile: Laboratory, daemon: Daemon, backups: Path
) -> None:
    with removed([define(fragile, "left", obeys_button=False)]) as (machine,):
        machine.boot()
        found = machine.xml()
        with ThreadPoolExecutor(1) as other:
            answer = other.submit(daemon.act, "left", "pxeboot", "?grace=1", timeout=120)
            until(lambda: is_waiting(daemon, machine), 30, "wait for the guest")
            fragile.libvirtd.kill()
            answer.exception()
            fragile.libvirtd.start()
        answered(answer.result())
        assert answer.result().status == UNAVAILABLE
        assert answer.result().json["uuid"] == machine.uuid
        assert answer.result().json["done"] == ["define", "shutdown"]
        assert machine.state() == "running"
        assert machine.xml() == order.with_order(found, "pxe")
        assert len(whole_backups(backups, "left", {found.strip()})) == 1
        assert daemon.get("/service/left/boot").json["pending"] is True
        assert daemon.act("left", "pxeboot", "?grace=0").status == OK
        machine.wait_for_boots("disk", "network")


def test_libvirtd_killed_while_an_order_is_set_and_booted(
    fragile: Laboratory, daemon: Daemon, backups: Path
) -> None:
    generator = random.Random(3)
    with removed([define(fragile, "hit")]) as (machine,):
        seconds = duration(lambda: booted_by_all(daemon, [machine], "pxeboot"))
        for _ in range(8):
            switch_off(machine)
            old = machine.xml()
            device: Device = "disk" if first(old) != "disk" else "pxe"
            with ThreadPoolExecutor(1) as other:
                answer = other.submit(daemon.act, "hit", VERBS[device], "?grace=0", timeout=120)
                threading.Event().wait(moment_in(generator, seconds))
                fragile.libvirtd.kill()
                fragile.libvirtd.start()
            answered(answer.result())
            now = machine.xml()
            assert now in (old, order.with_order(old, device))
            if answer.result().status == OK:
                assert now != old
            if now != old:
                newest = max(backups.glob("hit.xml.*"))
                assert newest.read_text("utf-8").strip() == old.strip()
            again = daemon.act("hit", VERBS[device], "?grace=0")
            assert (again.status, again.json["state"]) == (OK, "running"), again
            assert first(machine.xml()) == BANNERS[device]
        until(lambda: machine.booted[-1:], 30, "the last order", lambda b: b == [BANNERS[device]])


def test_disk_that_is_full_changes_nothing_until_it_has_room(tmp_path: Path, backups: Path) -> None:
    """A limit on the size of the daemon's files stands in for a full disk."""
    uri = hypervisor(tmp_path / "machines.xml", [("vm", "running")])
    file = tmp_path / "machines.xml"
    description = f"<description>{'x' * 200_000}</description><os><type>hvm</type></os>"
    devices = "<devices><disk><source file='/x'/><target dev='vda'/></disk>"
    devices += "<interface type='user'><mac address='52:54:00:00:00:01'/></interface></devices>"
    xml = file.read_text().replace("<os><type>hvm</type></os>", description + devices)
    file.write_text(xml)
    with Daemon("--connect", uri, "--backup-dir", str(backups)) as daemon:
        found = daemon.get("/service/vm/boot").json
        _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (100_000, hard))
        for _ in range(3):
            answer = daemon.act("vm", "pxeboot", "?grace=0")
            assert answer.status == INSUFFICIENT_STORAGE, answer
            assert "nothing was changed" in answer.json["detail"]
            assert "done" not in answer.json
        assert list(backups.iterdir()) == []
        assert daemon.get("/service/vm/boot").json == found
        assert not [c for c in daemon.virsh_commands() if c.startswith(("define", "destroy"))]
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert daemon.act("vm", "pxeboot", "?grace=0").json["changed"]
        assert daemon.get("/service/vm/boot").json["order"] != found["order"]
        assert len(list(backups.iterdir())) == 1
