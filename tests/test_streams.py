"""Many streams of events in one thread: what one of them suffers is nothing to the others."""

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mc.virsh import Stream, Streams
from tests.lab import Laboratory, Machine, until
from tests.relay import Relay
from tests.test_events import children, command_line

PATIENCE = 30.0
# Long enough for several processes to be started, if any were.
A_WHILE = 1.5


class Ear:
    """One stream, and what it has told: events, connections, and the words at its ends."""

    def __init__(
        self, streams: Streams, uri: str, *, qemus: bool = False, name: str = "", binary: str = ""
    ) -> None:
        self.events: list[object] = []
        self.connections = 0
        self.ends: list[str] = []
        self.ended_at: list[float] = []
        make: Callable[..., Stream] = streams.qemu_events if qemus else streams.domain_events
        self.stream = make(
            binary or "virsh",
            uri,
            on_event=self.event,
            on_connected=self.connected,
            on_end=self.end,
            name=name,
        )

    def event(self, *event: object) -> None:
        self.events.append(event)

    def connected(self) -> None:
        assert self.stream.connected
        self.connections += 1

    def end(self, words: str) -> None:
        assert not self.stream.connected
        self.ends.append(words)
        self.ended_at.append(time.monotonic())

    def start(self) -> "Ear":
        self.stream.start()
        return self

    def wait_until_connected(self, times: int = 1) -> None:
        until(lambda: self.connections, PATIENCE, f"connection no. {times}", lambda n: n >= times)

    def wait_for_event(self, of: Machine) -> None:
        until(lambda: of.name in str(self.events), PATIENCE, f"event of {of.name}")

    def wait_for_end(self, times: int = 1) -> None:
        until(lambda: len(self.ends), PATIENCE, f"end no. {times}", lambda n: n >= times)


def processes() -> list[int]:
    """The ids of the processes of all streams."""
    return [pid for pid in children() if b"--loop" in command_line(pid)]


def a_while() -> None:
    """Let some time pass in which something must not happen."""
    end = time.monotonic() + A_WHILE
    until(lambda: time.monotonic() > end, PATIENCE, "end of a while")


@contextmanager
def open_streams() -> Iterator[Streams]:
    """Streams for the length of the block, after which nothing of them is left."""
    before, threads = children(), threading.active_count()
    files = descriptors()
    with closing(Streams()) as streams:
        streams.start()
        yield streams
    assert children() == before
    assert threading.active_count() == threads
    # Those of a relay between may take their time.
    until(descriptors, PATIENCE, "end of the descriptors", lambda now: now <= files)


def descriptors() -> int:
    """How many files, pipes and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def streams() -> Iterator[Streams]:
    with open_streams() as streams:
        yield streams


@pytest.fixture(scope="module")
def machine(lab: Laboratory) -> Iterator[Machine]:
    machine = lab.define("streaming")
    yield machine
    machine.virsh("undefine")


def touch(machine: Machine) -> None:
    """Cause an event of the kind that virsh asks for nearly last."""
    key = f"urn:{os.urandom(4).hex()}"
    machine.virsh("metadata", "--uri", key, "--key", "x", "--set", "<a/>", "--config")
    machine.virsh("metadata", "--uri", key, "--remove", "--config")


@contextmanager
def frozen(lab: Laboratory) -> Iterator[None]:
    lab.libvirtd.freeze()
    try:
        yield
    finally:
        lab.libvirtd.thaw()


def test_hundred_streams_hear_and_close(
    streams: Streams, lab: Laboratory, machine: Machine
) -> None:
    libvirts = [Ear(streams, lab.uri).start() for _ in range(50)]
    qemus = [Ear(streams, lab.uri, qemus=True).start() for _ in range(50)]
    threads = threading.active_count()
    for ear in [*libvirts, *qemus]:
        ear.wait_until_connected()
    assert len(processes()) == 100
    assert threading.active_count() == threads
    touch(machine)
    machine.start()
    machine.destroy()
    for ear in [*libvirts, *qemus]:
        ear.wait_for_event(machine)
        assert (ear.connections, ear.ends) == (1, [])


def test_from_its_connection_on_nothing_is_missed(lab: Laboratory, machine: Machine) -> None:
    """Though virsh asks for each kind of events in a round trip of its own."""
    with (
        Relay(lab.libvirtd.socket, 0.025, lab.folder / "slow") as far,
        open_streams() as streams,
    ):
        ear = Ear(streams, far.uri).start()
        ear.wait_until_connected()
        touch(machine)
        ear.wait_for_event(machine)


def test_libvirtd_that_stands_still_is_given_up_and_tried_again(
    streams: Streams, fragile: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mc.virsh.stream._CONNECTING", 0.5)
    with frozen(fragile):
        ear = Ear(streams, fragile.uri).start()
        ear.wait_for_end(3)
        assert ear.connections == 0
        assert set(ear.ends) == {"no connection to libvirt within 0.5 s"}
    ear.wait_until_connected()


def test_those_that_stand_still_keep_nobody_from_connecting(
    streams: Streams, lab: Laboratory, fragile: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mc.virsh.stream._CONNECTING", 3600.0)
    with frozen(fragile):
        stuck = [Ear(streams, fragile.uri).start() for _ in range(40)]
        Ear(streams, lab.uri).start().wait_until_connected()
        assert not any(ear.connections for ear in stuck)
    for ear in stuck:
        ear.wait_until_connected()


def test_not_all_connect_at_once(
    streams: Streams, fragile: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mc.virsh.stream._CONNECTING", 3600.0)
    monkeypatch.setattr("mc.virsh.stream._YOUNG", 3600.0)
    with frozen(fragile):
        ears = [Ear(streams, fragile.uri).start() for _ in range(20)]
        until(processes, PATIENCE, "as many as may be", lambda found: len(found) == 16)
        a_while()
        assert len(processes()) == 16
    for ear in ears:
        ear.wait_until_connected()


def test_connected_stream_that_goes_deaf_ends(
    streams: Streams, fragile: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mc.virsh.binary._KEEPALIVE", ["-k", "1", "-K", "2"])
    ears = [Ear(streams, fragile.uri, qemus=qemus).start() for qemus in (False, True)]
    for ear in ears:
        ear.wait_until_connected()
    with frozen(fragile):
        for ear in ears:
            ear.wait_for_end()
            assert "keepalive" in ear.ends[0]
            assert not ear.stream.connected
    for ear in ears:
        ear.wait_until_connected(2)


def test_killed_libvirtd_ends_many_and_has_them_back(streams: Streams, fragile: Laboratory) -> None:
    ears = [Ear(streams, fragile.uri, qemus=number % 2 == 1).start() for number in range(20)]
    for ear in ears:
        ear.wait_until_connected()
    fragile.libvirtd.kill()
    for ear in ears:
        ear.wait_for_end(2)
        assert "Disconnected from" in ear.ends[0]
        assert "failed to connect to the hypervisor: Failed to connect socket" in ear.ends[1]
    fragile.libvirtd.start()
    for ear in ears:
        ear.wait_until_connected(2)


def test_one_that_rests_goes_on_until_it_ends(
    streams: Streams, lab: Laboratory, machine: Machine
) -> None:
    ear = Ear(streams, lab.uri).start()
    ear.wait_until_connected()
    (pid,) = processes()
    ear.stream.rest()
    touch(machine)
    ear.wait_for_event(machine)
    assert processes() == [pid]
    os.kill(pid, signal.SIGKILL)
    ear.wait_for_end()
    a_while()
    assert processes() == []
    ear.start().wait_until_connected(2)
    assert len(ear.ends) == 1


def test_one_that_is_started_again_before_it_has_ended_is_the_same(
    streams: Streams, lab: Laboratory
) -> None:
    ear = Ear(streams, lab.uri).start()
    ear.wait_until_connected()
    before = processes()
    for _ in range(3):
        ear.stream.rest()
        ear.start()
    Ear(streams, lab.uri, qemus=True).start().wait_until_connected()
    assert set(before) < set(processes())
    os.kill(before[0], signal.SIGKILL)
    ear.wait_until_connected(2)


def test_who_starts_what_is_started_does_not_hurry_it(streams: Streams, lab: Laboratory) -> None:
    ear = Ear(streams, f"qemu+unix:///session?socket={lab.folder}/nowhere")
    begun = time.monotonic()

    def tries() -> int:
        ear.start()
        return len(ear.ends)

    until(tries, PATIENCE, "some tries", lambda n: n >= 6)
    # There are pauses of 50 to 500 ms between them.
    assert time.monotonic() - begun > 1.25


def test_one_that_rests_before_it_has_connected_is_ended(
    streams: Streams, fragile: Laboratory
) -> None:
    with frozen(fragile):
        ear = Ear(streams, fragile.uri).start()
        until(processes, PATIENCE, "a process")
        ear.stream.rest()
        until(processes, PATIENCE, "end of the process", lambda found: not found)
        assert ear.ends == []
    ear.start().wait_until_connected()


def test_closed_stream_is_gone_for_good(streams: Streams, lab: Laboratory) -> None:
    ear, other = Ear(streams, lab.uri).start(), Ear(streams, lab.uri).start()
    for each in (ear, other):
        each.wait_until_connected()
    ear.stream.close()
    until(processes, PATIENCE, "end of the process", lambda found: len(found) == 1)
    ear.start()
    # What is asked for is done in turn.
    Ear(streams, lab.uri).start().wait_until_connected()
    assert len(processes()) == 2
    assert (ear.connections, ear.ends) == (1, [])
    assert (other.connections, other.ends) == (1, [])


def test_what_the_hypervisor_does_not_have_is_not_asked_for_again(
    streams: Streams, lab: Laboratory
) -> None:
    ear = Ear(streams, "test:///default", qemus=True).start()
    ear.wait_for_end()
    assert not ear.stream.supported
    ear.stream.rest()
    ear.start()
    Ear(streams, lab.uri).start().wait_until_connected()
    assert len(processes()) == 1
    assert (ear.connections, len(ear.ends)) == (0, 1)


def test_keepalive_that_is_refused_does_not_mean_that_there_are_no_events(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mc.virsh.binary._BY_DAEMON", re.compile(""))
    ear = Ear(streams, "test:///default").start()
    ear.wait_for_end(3)
    assert "not supported by the connection driver" in ear.ends[0]
    assert ear.stream.supported


def test_flood_of_one_host_does_not_starve_another(
    streams: Streams, lab: Laboratory, fragile: Laboratory, machine: Machine
) -> None:
    """2000 events wait for the thread, which takes its time over each, and then one of another."""
    told: list[str] = []
    hold, never = threading.Event(), threading.Event()

    def flooded(kind: str, name: str) -> None:
        assert hold.wait(PATIENCE)
        never.wait(0.001)
        told.append("flood")

    flood = streams.domain_events(
        "virsh",
        fragile.uri,
        on_event=flooded,
        on_connected=lambda: None,
        on_end=told.append,
    )
    other = streams.domain_events(
        "virsh",
        lab.uri,
        on_event=lambda kind, name: told.append("other"),
        on_connected=lambda: None,
        on_end=told.append,
    )
    for stream in (flood, other):
        stream.start()
        until(lambda: stream.connected, PATIENCE, "connection")  # noqa: B023
    flooding = fragile.define("flooding" * 20)
    file = fragile.file("flood.xml", flooding.virsh("dumpxml", "--inactive").encode())
    fragile.virsh(f"define {file};" * 2000)
    touch(machine)
    hold.set()
    until(lambda: told.count("flood"), PATIENCE, "the flood", lambda n: n >= 2000)
    assert told.index("other") < 1000
    flooding.virsh("undefine")


def test_an_error_of_who_hears_hurts_nobody(
    streams: Streams, lab: Laboratory, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("nobody's fault")

    bad = streams.domain_events(
        "virsh", lab.uri, on_event=fail, on_connected=fail, on_end=fail, name="bad"
    )
    bad.start()
    good = Ear(streams, lab.uri).start()
    good.wait_until_connected()
    until(lambda: bad.connected, PATIENCE, "connection")
    touch(machine)
    good.wait_for_event(machine)
    for pid in processes():
        os.kill(pid, signal.SIGKILL)
    good.wait_until_connected(2)
    until(lambda: len(failures(caplog)), PATIENCE, "errors", lambda n: n >= 4)
    assert {record.getMessage() for record in failures(caplog)} == {
        "events of bad by virsh event cannot be followed"
    }
    until(lambda: bad.connected, PATIENCE, "another connection")


def failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info]


def test_warning_names_the_host_once_for_each_reason(
    streams: Streams, lab: Laboratory, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = f"qemu+unix:///session?socket={lab.folder}/nowhere"
    named = Ear(streams, nowhere, name="kvm1").start()
    unnamed = Ear(streams, nowhere, qemus=True).start()
    for ear in (named, unnamed):
        ear.wait_for_end(3)
    warnings = {
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    }
    words = named.ends[0]
    assert words.startswith("failed to connect to the hypervisor: Failed to connect socket to ")
    assert "\n" not in words
    assert warnings == {
        f"no events of kvm1 by virsh event: {words}",
        f"no events by virsh qemu-monitor-event: {words}",
    }
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 2


def test_another_host_is_tried_more_and_more_rarely(streams: Streams) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        far = Ear(streams, f"qemu+tcp://127.0.0.1:{port}/system").start()
        far.wait_for_end(8)
    # Seven pauses: half of 50 ms, doubled each time, at the least; 2.25 s in all on this host.
    assert far.ended_at[-1] - far.ended_at[0] > 2.8


def test_virsh_that_says_much_is_still_heard(
    streams: Streams, lab: Laboratory, machine: Machine, tmp_path: Path
) -> None:
    """More on standard error than a pipe holds, as libvirt's warnings may be in the long run."""
    binary = tmp_path / "virsh"
    binary.write_text('#!/bin/sh\nhead -c 300000 /dev/zero >&2\nexec virsh "$@"\n')
    binary.chmod(0o755)
    ear = Ear(streams, lab.uri, binary=str(binary)).start()
    ear.wait_until_connected()
    touch(machine)
    ear.wait_for_event(machine)


def test_close_without_start(lab: Laboratory) -> None:
    before, threads = children(), threading.active_count()
    streams = Streams()
    ear = Ear(streams, lab.uri).start()
    streams.close()
    streams.close()
    for late in (ear.stream.start, ear.stream.rest, ear.stream.close):
        late()
    assert children() == before
    assert threading.active_count() == threads


def test_close_while_many_connect(fragile: Laboratory) -> None:
    with frozen(fragile), open_streams() as streams:
        for _ in range(40):
            Ear(streams, fragile.uri).start()
        until(processes, PATIENCE, "some processes", lambda found: len(found) > 5)
