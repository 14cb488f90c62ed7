"""What QEMU's events tell of a machine's runs: its reboots, and how a run has ended.

A run is the life of one QEMU process. A reboot that SeaBIOS sees is several resets: it resets the
machine once more, itself, to get its own memory back (`qemu_prep_reset` in its src/fw/shadow.c),
and where the processor does not stop at once again, and again. That is the reboot under way, no
other one.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from math import inf

from mc.virsh import QemuEvent

GUEST_RESET, HOST_RESET, POWER_OFF = "guest-reset", "host-qmp-system-reset", "guest-shutdown"
"""QEMU's words (ShutdownCause) for a reset by the guest, for one by `virsh reset` or by libvirt
itself, and for a guest's power-off."""
OWN_ENDS = (GUEST_RESET, HOST_RESET, POWER_OFF)
"""How a guest, or a reset, ends a run; whatever else does has no sequel."""

# Seconds by QEMU's clock in which firmware comes to its first reset, on however busy a host; and in
# which two resets are one, for which the guest has asked in more ways than one.
_FIRMWARE, _SAME = 1.0, 0.002
# To a further one it takes about as long as it took to the first. What comes this much later, or in
# this time, may be either: a guest that reboots as soon as it runs is hardly later.
_AGAIN, _AGAIN_AT_LEAST = 2, 0.15
# Seconds after a reset in which nothing has booted.
_STARTING = 0.1
# By how many events the clocks of two hosts are compared, and the seconds that an event takes to
# get here at most: a clock may have been put back.
_SAMPLES, _LONGEST_DELAY = 32, 5.0
# Of how many machines one knows before those that are off are forgotten.
_MANY = 10000


@dataclass(eq=False)
class Run:
    """A run, as far as there were events; `over` once it has ended, `followed` by another one.

    reset_at: QEMU's time of its latest reset; heard_at: our monotonic one when it was told.
    firmware: the seconds from a reboot to the first reset by firmware, once that was seen.
    """

    reset_at: float = -inf
    heard_at: float = -inf
    firmware: float | None = None
    over: bool = False
    followed: bool = False


@dataclass(frozen=True)
class Reboot:
    """A reboot inside a run, for which an order counts that was set between two times.

    Times are of our monotonic clock: `at` is when QEMU saw the reboot. `after` is -inf, unless this
    may be firmware's part of an earlier reboot: then an order that was set before is left alone.
    """

    name: str
    run: Run
    after: float
    at: float
    reason: str


@dataclass(frozen=True)
class End:
    """A run's end, for this reason."""

    name: str
    run: Run
    reason: str


@dataclass
class Runs:
    """Of all machines of a host. Not for two threads at once."""

    _runs: dict[str, Run] = field(default_factory=dict)
    _differences: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def heard(self, event: QemuEvent) -> Reboot | End | None:
        """Take note of an event, just now: what it means, if anything."""
        at = self._our_time(event.at)
        if event.kind == "SHUTDOWN":
            return self._ended(event)
        run = self._run(event.name)
        if event.kind == "RESUME" and run.over:
            run.followed = True
            del self._runs[event.name]
        return self._reset(run, event, at) if event.kind == "RESET" else None

    def _reset(self, run: Run, event: QemuEvent, at: float) -> Reboot | None:
        # Where a power-off means a reboot, libvirt resets a QEMU that has shut down.
        run.over = False
        now = time.monotonic()
        since = event.at - run.reset_at
        if since < 0:
            # The clock was put back.
            since = now - run.heard_at
        run.reset_at, run.heard_at = event.at, now
        after = -inf
        if event.reason == GUEST_RESET and run.firmware is None and since <= _FIRMWARE:
            run.firmware = since if since > _SAME else None
            return None
        if event.reason == GUEST_RESET and run.firmware is not None:
            if since <= _STARTING:
                return None
            if since <= max(_AGAIN * run.firmware, _AGAIN_AT_LEAST):
                after = at - since + _STARTING
        if after == -inf:
            run.firmware = None
        return Reboot(event.name, run, after, at, event.reason)

    def _ended(self, event: QemuEvent) -> End | None:
        """libvirt ends a QEMU that has shut down, which is a second event of the same end."""
        run = self._run(event.name)
        if run.over and event.reason in OWN_ENDS:
            # Of a run whose beginning was not heard.
            run.followed = True
            run = self._runs[event.name] = Run()
        first, run.over = not run.over, True
        return End(event.name, run, event.reason) if first else None

    def _run(self, name: str) -> Run:
        if len(self._runs) > _MANY:
            self._runs = {each: run for each, run in self._runs.items() if not run.over}
        return self._runs.setdefault(name, Run())

    def _our_time(self, at: float) -> float:
        """QEMU's time by our monotonic clock.

        Its host may have another time than ours. An event comes here after it has happened, by the
        difference of the clocks and a delay, which of the least delayed one is next to nothing.
        """
        now = time.monotonic()
        difference = now - at
        self._differences.append(difference)
        return now - min(difference - min(self._differences), _LONGEST_DELAY)
