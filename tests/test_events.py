"""The stream of events: complete, tenacious, and gone when it is closed."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mc.virsh import DomainEvents
from mc.virsh.events import parsed
from tests.lab import Key, Laboratory, Machine, until

# Names that virsh prints between quotes, unescaped, in a line of its own.
NAMES = [
    "plain",
    "it's",
    "'quoted'",
    "x' for domain 'y",
    "event 'reboot' for domain 'z'",
    '"double"; reboot --help #1',
    "  blanks  ",
    "tab\there",
    "früh 测试 🖥",
    "line\u2028separator",
    "%s%n$HOME",
    "<b>&amp;",
    "--loop",
    "5",
]


class Seen:
    """What a stream has reported so far: events, the names in those of reboots, and ends."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.names: list[str] = []
        self.ends = 0

    def event(self, kind: str, name: str) -> None:
        self.events.append((kind, name))
        if kind == "reboot":
            self.names.append(name)

    def end(self) -> None:
        self.ends += 1

    def wait_for(self, name: str, times: int = 1) -> None:
        until(lambda: self.names.count(name), 30, f"reboot {name!r}", lambda n: n >= times)

    def rebooted(self) -> set[str]:
        """The names, without those of `settled`, whose second event may be late."""
        return {name for name in self.names if not name.startswith("mark-")}


@pytest.fixture(scope="module")
def machine(fragile: Laboratory) -> Machine:
    machine = fragile.define("rebooting")
    machine.boot()
    return machine


def children() -> set[int]:
    """The ids of the processes that this one has started and not yet reaped."""
    found: set[int] = set()
    for file in Path("/proc/self/task").glob("*/children"):
        # A thread may just have ended.
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, file.read_text().split()))
    return found


def streams() -> list[int]:
    """Those that follow events."""
    return [pid for pid in children() if b"\0event\0" in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def stream() -> int:
    """The id of the one process of the stream, as soon as there is one."""
    (pid,) = until(streams, 30, "a virsh that follows events")
    return pid


def ended(pid: int) -> None:
    """Wait until this process of a stream has ended."""
    until(lambda: pid not in children(), 30, f"end of process {pid}")


def replaced(pid: int) -> None:
    """Wait until there is another process of a stream than this one."""
    until(lambda: set(streams()) - {pid}, 30, f"another process than {pid}")


@contextmanager
def following(uri: str, seen: Seen, binary: str = "virsh") -> Iterator[None]:
    """A stream for the length of the block, after which nothing of it is left."""
    before, threads = children(), threading.active_count()
    events = DomainEvents(binary, uri, on_event=seen.event, on_end=seen.end)
    events.start()
    try:
        yield
    finally:
        events.close()
    assert children() == before
    assert threading.active_count() == threads


def listening(lab: Laboratory, machine: Machine, seen: Seen) -> None:
    """Reset the machine until the stream tells of it: only then it has surely connected."""

    def reset_is_seen() -> bool:
        machine.virsh("reset")
        return machine.name in seen.names

    until(reset_is_seen, 30, "stream that follows the events")
    # Whatever of these resets is still on its way comes before the event of this one.
    settled(lab, machine, seen)


def settled(lab: Laboratory, machine: Machine, seen: Seen) -> None:
    """Wait until every event so far has been seen, and forget them."""
    catch_up(lab, seen)
    seen.names.clear()
    seen.events.clear()


def catch_up(lab: Laboratory, seen: Seen) -> None:
    """Wait until every event so far has been seen: libvirtd tells them to a client in turn."""
    mark = lab.define(f"mark-{os.urandom(4).hex()}")
    mark.start()
    mark.virsh("reset")
    seen.wait_for(mark.name)
    mark.destroy()
    mark.virsh("undefine")


def test_guests_own_reboot_and_reset_are_told(fragile: Laboratory, machine: Machine) -> None:
    seen = Seen()
    with following(fragile.uri, seen):
        listening(fragile, machine, seen)
        machine.virsh("reset")
        seen.wait_for("rebooting")
        settled(fragile, machine, seen)
        boots = machine.boots
        machine.virsh("reset")
        seen.wait_for("rebooting")
        machine.wait_for_boot(boots + 1)
        settled(fragile, machine, seen)
        machine.press(Key.REBOOT)
        seen.wait_for("rebooting")
        machine.wait_for_boot(boots + 2)
        assert seen.rebooted() == {"rebooting"}


def test_power_on_and_off_are_no_reboots(fragile: Laboratory, machine: Machine) -> None:
    seen = Seen()
    with following(fragile.uri, seen):
        listening(fragile, machine, seen)
        other = fragile.define("switched")
        other.boot()
        other.virsh("suspend")
        other.virsh("resume")
        other.destroy()
        other.boot()
        other.virsh("shutdown")
        other.wait_for_state("shut off")
        machine.virsh("reset")
        seen.wait_for("rebooting")
        assert seen.rebooted() == {"rebooting"}
        other.virsh("undefine")


def test_every_name_comes_whole(fragile: Laboratory, machine: Machine) -> None:
    seen = Seen()
    machines = [fragile.define(name) for name in NAMES]
    with following(fragile.uri, seen):
        listening(fragile, machine, seen)
        for each in machines:
            each.start()
            each.virsh("reset")
            seen.wait_for(each.name)
            each.destroy()
            each.virsh("undefine")
        catch_up(fragile, seen)
        assert seen.rebooted() == set(NAMES)
        told = [name for kind, name in seen.events if kind == "lifecycle"]
        # At the least it was resumed, started, stopped and undefined.
        assert all(told.count(name) >= 4 for name in NAMES)
        assert {name for name in told if not name.startswith("mark-")} == set(NAMES)


def test_what_changes_a_machine_is_told(fragile: Laboratory, machine: Machine) -> None:
    seen = Seen()
    with following(fragile.uri, seen):
        listening(fragile, machine, seen)
        other = fragile.define("changed")
        other.virsh("metadata", "--uri", "urn:x", "--key", "x", "--set", "<a/>", "--config")
        other.virsh("domrename", "renamed")
        fragile.virsh("undefine", "renamed")
        catch_up(fragile, seen)
        assert [event for event in seen.events if event[1] in ("changed", "renamed")] == [
            ("lifecycle", "changed"),
            ("metadata-change", "changed"),
            ("lifecycle", "changed"),
            ("lifecycle", "renamed"),
            ("lifecycle", "renamed"),
        ]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\toperation: 2",
        b"events received: 3",
        b"event 'reboot' for domain 'x",
        b"event 'reboot' for domain x",
        b" event 'reboot' for domain 'x'",
        b"event 'lifecycle' for network 'x': Started",
        b"error: Disconnected from test:///default due to end of file",
    ],
)
def test_other_lines_are_no_events(line: bytes) -> None:
    assert parsed(line) is None


def test_stream_comes_back_with_libvirtd(fragile: Laboratory, machine: Machine) -> None:
    seen = Seen()
    with following(fragile.uri, seen):
        for _ in range(3):
            listening(fragile, machine, seen)
            pid = stream()
            ends = seen.ends
            fragile.libvirtd.kill()
            ended(pid)
            until(lambda: seen.ends, 30, "report that it ended", lambda now: now > ends)  # noqa: B023
            fragile.libvirtd.start()
        listening(fragile, machine, seen)


def test_stream_waits_for_a_libvirtd_that_is_not_there_yet(
    fragile: Laboratory, machine: Machine
) -> None:
    seen = Seen()
    fragile.libvirtd.kill()
    with following(fragile.uri, seen):
        first = stream()
        replaced(first)
        fragile.libvirtd.start()
        listening(fragile, machine, seen)


def test_virsh_that_is_killed_is_replaced(fragile: Laboratory, machine: Machine) -> None:
    seen = Seen()
    with following(fragile.uri, seen):
        for _ in range(3):
            listening(fragile, machine, seen)
            pid = stream()
            os.kill(pid, signal.SIGKILL)
            replaced(pid)
        listening(fragile, machine, seen)


def test_close_while_libvirtd_is_frozen(fragile: Laboratory, machine: Machine) -> None:
    """Also of a stream that was just connecting."""
    seen = Seen()
    with following(fragile.uri, seen):
        listening(fragile, machine, seen)
        fragile.libvirtd.freeze()
    with following(fragile.uri, seen):
        stream()
    fragile.libvirtd.thaw()


def test_close_while_libvirtd_is_away(fragile: Laboratory, machine: Machine) -> None:
    fragile.libvirtd.kill()
    with following(fragile.uri, Seen()):
        stream()
    with following(fragile.uri, Seen()):
        first = stream()
        ended(first)
    fragile.libvirtd.start()


def test_close_at_once(fragile: Laboratory) -> None:
    for _ in range(10):
        with following(fragile.uri, Seen()):
            pass


def test_virsh_that_is_missing_is_tried_at_leisure(
    fragile: Laboratory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.events")
    missing = str(fragile.folder / "nowhere/virsh")
    with following(fragile.uri, Seen(), missing):
        until(lambda: caplog.records, 30, "a first try")
        before, begun = len(caplog.records), os.times()
        until(lambda: len(caplog.records) > before + 2, 30, "more tries")
        tries, now = len(caplog.records) - before, os.times()
        elapsed = now.elapsed - begun.elapsed
    assert missing in caplog.text
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    # Never less than the first pause of 50 ms between two.
    assert tries <= 1 + elapsed / 0.05


def test_virsh_that_comes_is_found(
    fragile: Laboratory, machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.events")
    seen = Seen()
    binary = tmp_path / "virsh"
    with following(fragile.uri, seen, str(binary)):
        until(lambda: caplog.records, 30, "a first try")
        script = tmp_path / "new"
        script.write_text('#!/bin/sh\nexec virsh "$@"\n')
        script.chmod(0o755)
        script.rename(binary)
        listening(fragile, machine, seen)


def test_close_while_events_arrive(fragile: Laboratory, machine: Machine) -> None:
    for _ in range(2):
        seen = Seen()
        with following(fragile.uri, seen):
            listening(fragile, machine, seen)
            machine.virsh("reset")
