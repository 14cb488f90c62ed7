"""The streams of events: complete, tenacious, and gone when they are closed."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from mc.virsh import QemuEvent, Stream, Streams
from mc.virsh.events import parsed, qemu_event
from tests.lab import Key, Laboratory, Machine, until

# Names that virsh prints between quotes, unescaped, in a line of its own.
NAMES = [
    "plain",
    "it's",
    "'quoted'",
    "x' for domain 'y",
    "event 'reboot' for domain 'z'",
    "event RESET at 1.5 for domain 'z': {}",
    'x\': {"reason":"guest-shutdown"}',
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


# The commands of virsh that tell of events: libvirt's own, and QEMU's.
LIBVIRTS, QEMUS = "event", "qemu-monitor-event"


class Seen:
    """What a stream has reported so far: events, the names in those of reboots, and ends.

    command: that of the stream, one of virsh's.
    """

    def __init__(self, command: str = LIBVIRTS) -> None:
        self.command = command
        self.events: list[tuple[str, str]] = []
        self.qemus: list[QemuEvent] = []
        self.names: list[str] = []
        self.connections = self.ends = 0

    def stream(self, streams: Streams, binary: str, uri: str) -> Stream:
        if self.command == LIBVIRTS:
            return streams.domain_events(
                binary,
                uri,
                on_event=self.event,
                on_connected=self.connected,
                on_end=self.end,
            )
        return streams.qemu_events(
            binary,
            uri,
            on_event=self.qemu_event,
            on_connected=self.connected,
            on_end=self.end,
        )

    def qemu_event(self, event: QemuEvent) -> None:
        self.qemus.append(event)
        self.event("reboot" if event.kind == "RESET" else event.kind, event.name)

    def event(self, kind: str, name: str) -> None:
        self.events.append((kind, name))
        if kind == "reboot":
            self.names.append(name)

    def connected(self) -> None:
        self.connections += 1

    def end(self, words: str) -> None:
        assert words
        self.ends += 1

    def wait_for(self, name: str, times: int = 1) -> None:
        until(lambda: self.names.count(name), 30, f"reboot {name!r}", lambda n: n >= times)

    def rebooted(self) -> set[str]:
        """The names, without those of `settled`, whose second event may be late."""
        return {name for name in self.names if not name.startswith("mark-")}

    def named(self) -> set[str]:
        """The names in events of any kind, without those of `settled`."""
        return {name for _, name in self.events if not name.startswith("mark-")}

    def of(self, name: str) -> list[QemuEvent]:
        """QEMU's events of this machine."""
        return [event for event in self.qemus if event.name == name]


@pytest.fixture(params=[LIBVIRTS, QEMUS])
def seen(request: pytest.FixtureRequest) -> Seen:
    return Seen(request.param)


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


def streams(seen: Seen) -> list[int]:
    """Those that follow the events."""
    return [pid for pid in children() if f" {seen.command} ".encode() in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def stream(seen: Seen) -> int:
    """The id of the one process of the stream, as soon as there is one."""
    (pid,) = until(lambda: streams(seen), 30, "a virsh that follows events")
    return pid


def ended(pid: int) -> None:
    """Wait until this process of a stream has ended."""
    until(lambda: pid not in children(), 30, f"end of process {pid}")


def replaced(seen: Seen, pid: int) -> None:
    """Wait until there is another process of the stream than this one."""
    until(lambda: set(streams(seen)) - {pid}, 30, f"another process than {pid}")


@contextmanager
def following(uri: str, *seen: Seen, binary: str = "virsh") -> Iterator[Stream]:
    """Streams for the length of the block, after which nothing of them is left: the first."""
    before, threads = children(), threading.active_count()
    with closing(Streams()) as streams:
        streams.start()
        made = [each.stream(streams, binary, uri) for each in seen]
        for each in made:
            each.start()
        yield made[0]
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
    seen.qemus.clear()


def catch_up(lab: Laboratory, seen: Seen) -> None:
    """Wait until every event so far has been seen: libvirtd tells them to a client in turn."""
    mark = lab.define(f"mark-{os.urandom(4).hex()}")
    mark.start()
    mark.virsh("reset")
    seen.wait_for(mark.name)
    mark.destroy()
    mark.virsh("undefine")


def test_guests_own_reboot_and_reset_are_told(
    fragile: Laboratory, machine: Machine, seen: Seen
) -> None:
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


def test_power_on_and_off_are_no_reboots(fragile: Laboratory, machine: Machine, seen: Seen) -> None:
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
    seen, of_qemu = Seen(), Seen(QEMUS)
    machines = [fragile.define(name) for name in NAMES]
    with following(fragile.uri, seen, of_qemu):
        listening(fragile, machine, seen)
        listening(fragile, machine, of_qemu)
        seen.events.clear()
        seen.names.clear()
        for each in machines:
            each.start()
            each.virsh("reset")
            seen.wait_for(each.name)
            of_qemu.wait_for(each.name)
            each.destroy()
            each.virsh("undefine")
        catch_up(fragile, seen)
        catch_up(fragile, of_qemu)
        assert seen.rebooted() == of_qemu.rebooted() == set(NAMES)
        assert of_qemu.named() == set(NAMES)
        resets = [event for event in of_qemu.qemus if event.kind == "RESET"]
        by_host = {event.name for event in resets if event.reason == "host-qmp-system-reset"}
        assert by_host >= set(NAMES)
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


def test_qemu_tells_when_and_why(fragile: Laboratory, machine: Machine) -> None:
    """QEMU's time is that of its host, which is this one."""
    seen = Seen(QEMUS)
    with following(fragile.uri, seen) as events:
        listening(fragile, machine, seen)
        before = time.time()
        other = fragile.define("it's told")
        other.boot()
        other.virsh("suspend")
        other.virsh("resume")
        other.press(Key.REBOOT)
        other.wait_for_boot(2)
        other.virsh("reset")
        other.wait_for_boot(3)
        other.virsh("shutdown")
        other.wait_for_state("shut off (shutdown)")
        catch_up(fragile, seen)
        assert events.supported
    told = seen.of("it's told")
    kinds = [event.kind for event in told]
    # It was started, and stopped and resumed before it was reset.
    assert kinds.index("RESUME") < kinds.index("STOP") < kinds.index("RESET")
    assert {event.reason for event in told if event.kind in ("RESUME", "STOP")} == {""}
    resets = [event.reason for event in told if event.kind == "RESET"]
    assert resets[0] == "guest-reset"
    assert resets.count("host-qmp-system-reset") == 1
    ends = [event.reason for event in told if event.kind == "SHUTDOWN"]
    assert ends[0] == "guest-shutdown"
    times = [event.at for event in told]
    assert before < times[0] and times[-1] < time.time()
    assert times == sorted(times)
    other.virsh("undefine")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kind", "details", "reason"),
    [
        ("RESET", '{"guest":true,"reason":"guest-reset"}', "guest-reset"),
        ("SHUTDOWN", '{"guest":false,"reason":"host-signal"}', "host-signal"),
        ("RESUME", "<null>", ""),
        ("NIC_RX_FILTER_CHANGED", '{"name":"net0","path":"/machine/x"}', ""),
    ],
)
def test_line_of_qemus_event(kind: str, name: str, details: str, reason: str) -> None:
    line = f"event {kind} at 1790000000.000042 for domain '{name}': {details}"
    assert qemu_event(line.encode()) == QemuEvent(kind, name, 1790000000.000042, reason)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"events received: 3",
        b"event RESET at 1.5 for domain 'x'",
        b"event RESET at 1.5 for domain x: <null>",
        b"event RESET at 15 for domain 'x': <null>",
        b"event RESET at 1.5e300 for domain 'x': <null>",
        b"event RESET at nan for domain 'x': <null>",
        b"event RESET at -1.5 for domain 'x': <null>",
        b"event RESET for domain 'x': <null>",
        b"event reset at 1.5 for domain 'x': <null>",
        b" event RESET at 1.5 for domain 'x': <null>",
        b"2026-01-01 00:00:00.000+0000: event RESET for domain 'x': <null>",
        b"event 'reboot' for domain 'x'",
        b"error: Disconnected from qemu:///system due to end of file",
    ],
)
def test_other_lines_are_no_events_of_qemus(line: bytes) -> None:
    assert qemu_event(line) is None


def test_stream_that_the_hypervisor_does_not_have_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mc.virsh.stream")
    seen = Seen(QEMUS)
    with following("test:///default", seen) as events:
        until(lambda: seen.ends, 30, "end of the stream")
        assert not events.supported
        # Nor is there another one, whoever asks for it.
        events.rest()
        events.start()
        assert streams(seen) == []
        assert (seen.ends, seen.events) == (1, [])
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "not supported by the connection driver" in record.getMessage()


def test_embedded_hypervisor_has_libvirts_events() -> None:
    seen = Seen()
    with following("test:///default", seen) as events:
        pid = stream(seen)
        os.kill(pid, signal.SIGKILL)
        replaced(seen, pid)
        assert events.supported


def test_stream_comes_back_with_libvirtd(fragile: Laboratory, machine: Machine, seen: Seen) -> None:
    with following(fragile.uri, seen) as events:
        for _ in range(3):
            listening(fragile, machine, seen)
            pid = stream(seen)
            ends = seen.ends
            fragile.libvirtd.kill()
            ended(pid)
            until(lambda: seen.ends, 30, "report that it ended", lambda now: now > ends)  # noqa: B023
            fragile.libvirtd.start()
        listening(fragile, machine, seen)
        assert events.supported


def test_stream_waits_for_a_libvirtd_that_is_not_there_yet(
    fragile: Laboratory, machine: Machine, seen: Seen
) -> None:
    fragile.libvirtd.kill()
    with following(fragile.uri, seen) as events:
        first = stream(seen)
        replaced(seen, first)
        assert events.supported
        fragile.libvirtd.start()
        listening(fragile, machine, seen)


def test_virsh_that_is_killed_is_replaced(
    fragile: Laboratory, machine: Machine, seen: Seen
) -> None:
    with following(fragile.uri, seen):
        for _ in range(3):
            listening(fragile, machine, seen)
            pid = stream(seen)
            os.kill(pid, signal.SIGKILL)
            replaced(seen, pid)
        listening(fragile, machine, seen)


def test_close_while_libvirtd_is_frozen(fragile: Laboratory, machine: Machine, seen: Seen) -> None:
    """Also of a stream that was just connecting."""
    with following(fragile.uri, seen):
        listening(fragile, machine, seen)
        fragile.libvirtd.freeze()
    with following(fragile.uri, seen):
        stream(seen)
    fragile.libvirtd.thaw()


def test_close_while_libvirtd_is_away(fragile: Laboratory, machine: Machine, seen: Seen) -> None:
    fragile.libvirtd.kill()
    with following(fragile.uri, seen):
        stream(seen)
    with following(fragile.uri, seen):
        first = stream(seen)
        ended(first)
    fragile.libvirtd.start()


def test_close_at_once(fragile: Laboratory, seen: Seen) -> None:
    for _ in range(10):
        with following(fragile.uri, seen):
            pass


def test_virsh_that_is_missing_is_tried_at_leisure(
    fragile: Laboratory, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.stream")
    missing = str(fragile.folder / "nowhere/virsh")
    with following(fragile.uri, seen, binary=missing):
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
    fragile: Laboratory,
    machine: Machine,
    seen: Seen,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "mc.virsh.stream")
    binary = tmp_path / "virsh"
    with following(fragile.uri, seen, binary=str(binary)):
        until(lambda: caplog.records, 30, "a first try")
        script = tmp_path / "new"
        script.write_text('#!/bin/sh\nexec virsh "$@"\n')
        script.chmod(0o755)
        script.rename(binary)
        listening(fragile, machine, seen)


def test_close_while_events_arrive(fragile: Laboratory, machine: Machine, seen: Seen) -> None:
    for _ in range(2):
        with following(fragile.uri, seen):
            listening(fragile, machine, seen)
            machine.virsh("reset")
