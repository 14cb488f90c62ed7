"""What QEMU's events tell of the runs of machines: sequences as they were measured, and worse."""

import time
from collections.abc import Iterable
from math import inf

import pytest

from mc.boot.runs import GUEST_RESET, HOST_RESET, POWER_OFF, End, Reboot, Runs
from mc.virsh import QemuEvent

HOST_SIGNAL = "host-signal"
# Seconds between two events that have nothing to do with each other, and that QEMU and libvirt
# take for anything.
A_WHILE, AT_ONCE = 60.0, 0.005
# Reboots measured on a busy host: the milliseconds of each reset since the first.
BY_HAND = [
    [0, 71.1, 82.4, 161.1],
    [0, 69.5, 71.3, 101.0, 105.3, 143.1, 143.6],
    [0, 124.5, 128.5, 202.1, 211.3, 273.1, 274.8],
    [0, 186],
]
BY_GUEST = [0, 65.1, 66.1]
AGAIN = 216.5
"""The milliseconds from the last of `BY_GUEST` to the guest's next reboot."""


class Hosts:
    """Runs that hear what happens on a host, whose clock and ours may differ.

    now: the time by our clock; ahead: by how many seconds the host's is ahead of it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ahead: float = 1.79e9) -> None:
        self.runs = Runs()
        self.now = 1000.0
        self.ahead = ahead
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def heard(
        self,
        kind: str,
        reason: str = "",
        *,
        after: float = A_WHILE,
        late: float = 0.0,
        name: str = "m",
    ) -> Reboot | End | None:
        """What an event means that happens after so many seconds, and is heard so much later."""
        self.now += after
        event = QemuEvent(kind, name, self.now + self.ahead, reason)
        self.now += late
        told = self.runs.heard(event)
        self.now -= late
        return told

    def reset(self, reason: str, *, after: float = A_WHILE, late: float = 0.0) -> Reboot | None:
        told = self.heard("RESET", reason, after=after, late=late)
        assert not isinstance(told, End)
        return told

    def reboot(self, reason: str, *, after: float = A_WHILE, late: float = 0.0) -> Reboot:
        """A reset that is the beginning of a reboot, without doubt."""
        told = self.reset(reason, after=after, late=late)
        assert isinstance(told, Reboot)
        assert (told.reason, told.after) == (reason, -inf)
        assert told.at == pytest.approx(self.now, abs=1e-6)
        return told

    def burst(self, reason: str, milliseconds: Iterable[float]) -> list[Reboot]:
        """What a reset for this reason and the guest's resets after it mean."""
        last, *later = milliseconds
        told = [self.reboot(reason)]
        for moment in later:
            reset = self.reset(GUEST_RESET, after=(moment - last) / 1000)
            told += [reset] if reset else []
            last = moment
        return told

    def end(self, reason: str, *, after: float = A_WHILE) -> End | None:
        told = self.heard("SHUTDOWN", reason, after=after)
        assert not isinstance(told, Reboot)
        return told


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    return Hosts(monkeypatch)


def doubtful(told: list[Reboot], host: Hosts, first: float) -> None:
    """All but the first may be firmware's: they count for an order set since something booted."""
    for reboot in told[1:]:
        assert first + 0.1 <= reboot.after <= reboot.at <= host.now


# Reboots.


@pytest.mark.parametrize("resets", BY_HAND)
def test_reset_by_hand_and_firmwares_are_one_reboot(host: Hosts, resets: list[float]) -> None:
    """Whatever is not told apart does not touch an order that was set at once after the reset."""
    for _ in range(3):
        told = host.burst(HOST_RESET, resets)
        assert told[0].name == "m"
        first = told[0].at
        doubtful(told, host, first)
        # Nothing of it is surely a reboot that follows.
        assert [one for one in told[1:] if one.after == -inf] == []


def test_guests_reboot_and_firmwares_reset_are_one_reboot(host: Hosts) -> None:
    (first,) = host.burst(GUEST_RESET, BY_GUEST)
    # A guest that reboots as soon as it runs: an order counts that was set since.
    again = host.reset(GUEST_RESET, after=AGAIN / 1000)
    assert again is not None
    assert again.at == pytest.approx(first.at + (BY_GUEST[-1] + AGAIN) / 1000, abs=1e-6)
    assert again.run is first.run


@pytest.mark.parametrize("reason", [HOST_RESET, GUEST_RESET])
@pytest.mark.parametrize("firmware", [35, 70, 120, 220])
def test_each_reboot_of_many_is_told_once(host: Hosts, reason: str, firmware: float) -> None:
    for _ in range(10):
        assert len(host.burst(reason, [0, firmware])) == 1
        assert len(host.burst(GUEST_RESET, [0, firmware])) == 1


@pytest.mark.parametrize("firmware", [35, 70, 120, 220])
def test_reboot_that_is_later_than_firmware_could_be_is_one(host: Hosts, firmware: float) -> None:
    """firmware: the milliseconds to its reset, and the longest that it may take to another."""
    longest = max(2 * firmware, 150)
    host.burst(HOST_RESET, [0, firmware])
    host.reboot(GUEST_RESET, after=longest / 1000 + AT_ONCE)
    assert host.reset(GUEST_RESET, after=firmware / 1000) is None
    host.reboot(GUEST_RESET)


@pytest.mark.parametrize(
    ("firmware", "again"), [(35, 0.145), (70, 0.13), (120, 0.235), (220, 0.13), (220, 0.435)]
)
def test_reset_that_may_be_firmwares_counts_for_a_late_order(
    host: Hosts, firmware: float, again: float
) -> None:
    """In twice the milliseconds that its first took, or seconds that it has on a busy host."""
    (first,) = host.burst(HOST_RESET, [0, firmware])
    told = host.reset(GUEST_RESET, after=again)
    assert told is not None
    booted = first.at + firmware / 1000 + 0.1
    assert told.after == pytest.approx(booted, abs=1e-6)
    # Until then the order is that of the first reset; one that was set in between is not.
    assert first.at < told.after < told.at


def test_resets_at_once_after_firmwares_are_firmwares(host: Hosts) -> None:
    assert len(host.burst(HOST_RESET, [0, 70, 72, 140, 150, 200, 290])) == 1


def test_guest_that_asks_in_more_ways_than_one_reboots_once(host: Hosts) -> None:
    """By its ACPI register and by the keyboard controller: firmware's own reset is to come."""
    assert len(host.burst(GUEST_RESET, [0, 1.0, 71])) == 1
    assert len(host.burst(GUEST_RESET, [0, 1.9, 36, 37])) == 1
    assert len(host.burst(GUEST_RESET, [0, 1.0, 131])) == 1
    assert len(host.burst(GUEST_RESET, [0, 1.9, 221])) == 1
    host.reboot(GUEST_RESET)


def test_reset_by_hand_always_is_one(host: Hosts) -> None:
    """Nobody but libvirt's users has it, however soon after another."""
    for after in (A_WHILE, 0.0005, 0.07, 0.15, 0.5):
        host.reboot(HOST_RESET, after=after)
    assert host.reset(GUEST_RESET, after=0.07) is None
    host.reboot(HOST_RESET, after=0.02)
    assert host.reset(GUEST_RESET, after=0.07) is None


def test_machine_whose_firmware_does_not_reset(host: Hosts) -> None:
    """UEFI: each is a reboot, as soon as a guest could have booted."""
    for _ in range(5):
        host.reboot(GUEST_RESET, after=1.001)
    host.reboot(HOST_RESET)
    host.reboot(GUEST_RESET, after=1.001)


def test_first_reset_of_a_run_is_a_reboot(host: Hosts) -> None:
    """The daemon may have been started later than the machine."""
    host.reboot(GUEST_RESET, after=0)


@pytest.mark.parametrize("reason", ["subsystem-reset", "host-qmp-quit", "snapshot-load", "", "x"])
def test_reset_for_another_reason_is_one_as_it_says(host: Hosts, reason: str) -> None:
    host.reboot(reason)
    host.reboot(reason, after=0.07)


def test_machines_are_not_mixed_up(host: Hosts) -> None:
    for name in ("a", "b", "it's': x", ""):
        told = host.heard("RESET", HOST_RESET, after=0.07, name=name)
        assert isinstance(told, Reboot)
        assert (told.name, told.after) == (name, -inf)
    for name in ("a", "b", "it's': x", ""):
        assert host.heard("RESET", GUEST_RESET, after=0, name=name) is None


@pytest.mark.parametrize("kind", ["STOP", "RESUME", "NIC_RX_FILTER_CHANGED", "reset", ""])
def test_other_events_mean_nothing(host: Hosts, kind: str) -> None:
    host.reboot(HOST_RESET)
    assert host.heard(kind, after=0.03) is None
    assert host.heard(kind, GUEST_RESET, after=0.01) is None
    assert host.reset(GUEST_RESET, after=0.03) is None
    reboot = host.reboot(HOST_RESET)
    assert not (reboot.run.over or reboot.run.followed)


# Ends.


def test_a_run_ends_once(host: Hosts) -> None:
    """libvirt ends a QEMU that has shut down, which is a second event."""
    reboot = host.reboot(GUEST_RESET)
    end = host.end(POWER_OFF)
    assert end is not None
    assert (end.name, end.reason, end.run) == ("m", POWER_OFF, reboot.run)
    assert host.heard("STOP", after=AT_ONCE) is None
    assert host.end(HOST_SIGNAL, after=AT_ONCE) is None
    assert (end.run.over, end.run.followed) == (True, False)


@pytest.mark.parametrize(
    "reason", [GUEST_RESET, HOST_RESET, POWER_OFF, HOST_SIGNAL, "guest-panic", ""]
)
def test_end_tells_its_first_reason(host: Hosts, reason: str) -> None:
    """Also of a run of which nothing else was heard."""
    end = host.end(reason)
    assert end is not None
    assert end.reason == reason
    assert host.end(HOST_SIGNAL, after=AT_ONCE) is None


def test_new_run_is_another_one(host: Hosts) -> None:
    for _ in range(3):
        end = host.end(POWER_OFF)
        assert end is not None
        assert host.end(HOST_SIGNAL, after=AT_ONCE) is None
        assert not end.run.followed
        assert host.heard("RESUME", after=A_WHILE) is None
        assert (end.run.over, end.run.followed) == (True, True)
        reboot = host.reboot(GUEST_RESET, after=0.07)
        assert reboot.run is not end.run
        assert not reboot.run.over
        assert host.heard("RESUME") is None
        assert not reboot.run.followed


def test_new_run_begins_its_resets_anew(host: Hosts) -> None:
    """What firmware took in the run before says nothing about the next one's first reset."""
    host.burst(HOST_RESET, [0, 70])
    host.end(POWER_OFF, after=0.01)
    host.heard("RESUME", after=0.01)
    host.reboot(GUEST_RESET, after=0.01)
    assert host.reset(GUEST_RESET, after=0.07) is None


@pytest.mark.parametrize("reason", [GUEST_RESET, POWER_OFF])
def test_end_of_a_run_whose_beginning_was_not_heard(host: Hosts, reason: str) -> None:
    """It began while libvirt, and with it the stream of events, was away."""
    end = host.end(POWER_OFF)
    assert end is not None
    assert host.end(HOST_SIGNAL, after=AT_ONCE) is None
    later = host.end(reason)
    assert later is not None
    assert later.reason == reason
    assert host.end(HOST_SIGNAL, after=AT_ONCE) is None


def test_libvirts_reset_after_a_power_off_goes_on_with_the_run(host: Hosts) -> None:
    """How libvirt reboots a machine whose `on_poweroff` is `restart`, or which it asks by ACPI."""
    end = host.end(POWER_OFF)
    assert end is not None
    assert end.run.over
    assert host.heard("STOP", after=AT_ONCE) is None
    reboot = host.reboot(HOST_RESET, after=AT_ONCE)
    assert reboot.run is end.run
    assert (end.run.over, end.run.followed) == (False, False)
    assert host.heard("RESUME", after=AT_ONCE) is None
    assert (end.run.over, end.run.followed) == (False, False)
    assert host.reset(GUEST_RESET, after=0.07) is None
    later = host.end(POWER_OFF)
    assert later is not None
    assert later.run is end.run


def test_pause_is_no_end(host: Hosts) -> None:
    reboot = host.reboot(HOST_RESET)
    assert host.heard("STOP", after=0.02) is None
    assert host.heard("RESUME", after=0.03) is None
    assert not reboot.run.followed
    assert host.reset(GUEST_RESET, after=0.02) is None


# Clocks.


@pytest.mark.parametrize("ahead", [0.0, -5 * 3600.0, 5 * 3600.0, 1.79e9])
def test_clock_of_another_host_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    host = Hosts(monkeypatch, ahead)
    for _ in range(5):
        assert len(host.burst(HOST_RESET, [0, 70])) == 1


@pytest.mark.parametrize("late", [0.01, 0.3, 3.0])
def test_event_that_comes_late_tells_when_it_happened(host: Hosts, late: float) -> None:
    """As soon as one has come at once: it is compared with that."""
    host.reboot(GUEST_RESET)
    told = host.reboot(GUEST_RESET, late=late)
    assert told.at == pytest.approx(host.now, abs=1e-6)
    assert host.reset(GUEST_RESET, after=0.07, late=late) is None
    doubt = host.reset(GUEST_RESET, after=0.13, late=late / 2)
    assert doubt is not None
    assert doubt.after == pytest.approx(told.at + 0.07 + 0.1, abs=1e-6)


def test_events_that_all_come_late_are_as_late_as_the_first_at_most(host: Hosts) -> None:
    told = host.reset(GUEST_RESET, late=0.5)
    assert told is not None
    assert told.at == pytest.approx(host.now + 0.5, abs=1e-6)
    told = host.reset(GUEST_RESET, late=0.2)
    assert told is not None
    assert told.at == pytest.approx(host.now + 0.2, abs=1e-6)


@pytest.mark.parametrize("back", [10.0, 3600.0, 1.0e9])
def test_clock_that_is_put_back_is_believed_again(host: Hosts, back: float) -> None:
    """Until it is forgotten how it was, an event has happened a few seconds ago at most."""
    for _ in range(3):
        host.reboot(GUEST_RESET)
    host.ahead -= back
    for _ in range(31):
        told = host.reset(HOST_RESET)
        assert told is not None
        assert told.at == pytest.approx(host.now - 5, abs=1e-6)
    host.reboot(HOST_RESET)
    assert host.reset(GUEST_RESET, after=0.07) is None


@pytest.mark.parametrize("forth", [0.5, 10.0, 3600.0, 1.0e9])
def test_clock_that_is_put_forward_is_believed_at_once(host: Hosts, forth: float) -> None:
    for _ in range(3):
        host.reboot(GUEST_RESET)
    host.ahead += forth
    for _ in range(3):
        assert len(host.burst(HOST_RESET, [0, 70])) == 1


@pytest.mark.parametrize("back", [0.05, 0.2, 10.0, 3600.0])
def test_clock_put_back_within_a_reboot_makes_no_other_one(host: Hosts, back: float) -> None:
    """Firmware's reset seems to come before the reboot: that is none which an order waits for."""
    host.reboot(HOST_RESET)
    host.ahead -= back
    assert host.reset(GUEST_RESET, after=0.07) is None


@pytest.mark.parametrize("back", [10.0, 3600.0])
@pytest.mark.parametrize("firmware", [[0], [0, 70]])
def test_reboot_after_a_clock_was_put_back_is_one(
    host: Hosts, back: float, firmware: list[float]
) -> None:
    """Of a guest that runs for a while, though less than by which the clock was wrong."""
    host.burst(HOST_RESET, firmware)
    host.ahead -= back
    told = host.reset(GUEST_RESET, after=back / 2)
    assert told is not None
    assert told.after == -inf


# Memory.


def test_machines_that_have_gone_are_forgotten(host: Hosts) -> None:
    """libvirt's end of a QEMU is told as an end of its own where the guest's was forgotten."""
    names = [f"gone-{number}" for number in range(25_000)]
    host.reboot(HOST_RESET)
    for name in names:
        host.heard("SHUTDOWN", POWER_OFF, after=0, name=name)
    ends = [host.heard("SHUTDOWN", HOST_SIGNAL, after=0, name=name) for name in reversed(names)]
    assert 0 < ends.count(None) <= 10_001
    # Not so one that runs.
    assert host.reset(GUEST_RESET, after=0.07) is None
