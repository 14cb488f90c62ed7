"""The reboot rule: a reboot boots what is set, also if the guest itself caused it."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

from mc.boot.runs import GUEST_RESET, HOST_RESET, OWN_ENDS, End, Reboot, Runs
from mc.boot.starts import Sequel, Starts
from mc.errors import (
    Busy,
    CannotBoot,
    ControllerError,
    HostBusy,
    NoSuchMachine,
    Refused,
    Unavailable,
)
from mc.machine.machines import FoundMachine, Machine, Machines
from mc.machine.supply import polled
from mc.machine.turns import MachineTurns
from mc.machine.verbs import Condition, condition
from mc.virsh import QemuEvent

log = logging.getLogger(__name__)

_AT_ONCE = 64
# How often one waits anew for a turn that does not come, and the seconds between.
_TRIES, _TRY_AGAIN = 10, 2.0
# Reasons for which a machine is off (virDomainShutoffReason) that do not end what it was at.
_GOES_ON = ("saved", "migrated", "from snapshot")
# Seconds that libvirt may take to end a QEMU that has shut down, that a new stream of events may
# take to connect, and between two tries to look what has happened while libvirt was away.
_ENDING, _CONNECTING, _LOOK_AGAIN = 15.0, 1.0, 5.0
_LOOKS = 2


class RebootRule:
    """Turns a reboot into off and on where the running order is not the one to boot next.

    libvirt and QEMU keep the boot order for the life of the QEMU process. A reboot happens inside
    it, but for that of a one-time boot, which ends it: then the machine is started by its order.
    What is known is read anew at each event, so nothing is forgotten when the daemon, libvirtd or
    the stream of events is restarted.
    """

    def __init__(self, machines: Machines, turns: MachineTurns, starts: Starts) -> None:
        self._machines = machines
        self._turns = turns
        self._starts = starts
        self._runs = Runs()
        # The names of those whose unseen end has been told.
        self._told: set[str] = set()
        self._looking = Lock()
        self._closed = Event()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "reboot rule")

    def heard(self, event: QemuEvent) -> None:
        """Take note of an event of QEMU's, the latest one; returns at once."""
        if event.kind == "RESUME":
            self._told.discard(event.name)
        told = self._runs.heard(event)
        if told is None or not self._machines.included(told.name):
            return
        log.debug("%s", event)
        if isinstance(told, Reboot):
            self._submit("reboot", told.name, lambda: self._rebooted(told))
        else:
            self._submit("end", told.name, lambda: self._ended(told))

    def rebooted(self, name: str) -> None:
        """Take note of libvirt's event that a machine has rebooted, where QEMU tells nothing."""
        self.heard(QemuEvent("RESET", name, time.time(), GUEST_RESET))

    def look_back(self) -> None:
        """Say which one-time boots have ended unseen, as soon as libvirt can be asked."""
        if self._looking.acquire(blocking=False):
            self._submit("one-time boots", "", self._look_back)

    def look_around(self, on_nothing: Callable[[], None]) -> None:
        """Call this, some time later, if no machine runs whose reboot or end is to be followed."""

        def look() -> None:
            if not any(self._starts.is_followed(one) for one in self._machines.list_all()):
                on_nothing()

        self._submit("what runs", "", look)

    def close(self) -> None:
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)

    def _submit(self, what: str, name: str, follow: Callable[[], None]) -> None:
        def tried() -> None:
            for _ in range(_TRIES - 1):
                try:
                    return follow()
                except (Busy, HostBusy) as error:
                    log.debug("%s of %r not followed yet: %s", what, name, error)
                if self._closed.wait(_TRY_AGAIN):
                    break
            return follow()

        def run() -> None:
            try:
                tried()
            except NoSuchMachine as error:
                # It has gone since.
                log.debug("%s of %r not followed: %s", what, name, error)
            except ControllerError as error:
                log.warning("%s of %r not followed: %s", what, name, error)
            except Exception:
                log.exception("%s of %r not followed", what, name)

        if not self._closed.is_set():
            self._threads.submit(run)

    def _rebooted(self, reboot: Reboot) -> None:
        now = self._machines.named(reboot.name)
        with self._turns.of(now.uuid) as machine, self._starts.whole():
            own = reboot.reason == HOST_RESET and self._starts.has_reset(machine.uuid, reboot.at)
            if own or reboot.run.over or machine.id is None or machine.id != now.id:
                return
            if not self._is_running(machine):
                return
            if not self._starts.reboots_wrongly(machine, reboot.after, reboot.at):
                return
            if self._starts.restart(machine, [], only_if_cut=True):
                ms = (time.monotonic() - reboot.at) * 1000
                log.info("rebooted into its new order: %s ms=%d", _named(machine), ms)

    def _ended(self, end: End) -> None:
        uuid = self._machines.named(end.name).uuid
        with self._turns.of(uuid) as machine, self._starts.whole():
            sequel = self._starts.sequel(machine.uuid, end.reason)
            reason = self._off_for(machine, end) if sequel else None
            # A guest may have ended it before while libvirt was away, which now ends QEMU.
            is_seen = end.reason in OWN_ENDS or reason != "shutdown"
            if reason is None or sequel is None:
                return
            if is_seen:
                self._follow_up(machine, end, sequel)
        if not is_seen:
            self._tell_unseen(machine)

    def _follow_up(self, machine: FoundMachine, end: End, sequel: Sequel) -> None:
        if not sequel.starts:
            self._starts.forget_begun(machine.uuid)
        elif not self._is_started(machine):
            return
        then = "started by its order" if sequel.starts else "stays off"
        what = f"one-time boot ({sequel.device})" if sequel.device else "run"
        log.info("the %s has ended by %s, %s: %s", what, end.reason, then, _named(machine))

    def _is_started(self, machine: FoundMachine) -> bool:
        """Start the machine; whether nobody else was faster."""
        try:
            self._starts.start(machine.uuid, [])
        except Refused:
            if self._machines.number(machine.uuid) is None:
                raise
            return False
        return True

    def _is_running(self, machine: FoundMachine) -> bool:
        """Whether it runs on after a reset; libvirt says so late if the guest had powered off."""
        for status in polled(lambda: self._machines.status(machine.uuid), _ENDING):
            found = condition(status)
            if found != Condition.SETTLING:
                break
        return found == Condition.RUNNING

    def _off_for(self, machine: FoundMachine, end: End) -> str | None:
        """libvirt's reason when it is off for good; None if it goes on, or somebody starts it."""
        for status in polled(lambda: self._machines.status(machine.uuid), _ENDING):
            if condition(status) == Condition.OFF:
                goes_on = end.run.followed or status.reason in _GOES_ON
                return None if goes_on else status.reason
            if end.run.followed or not end.run.over:
                break
        return None

    def _look_back(self) -> None:
        try:
            self._closed.wait(_CONNECTING)
            # Once more after the first: libvirt itself takes a while to find out what has ended.
            looks = 0
            while not self._closed.is_set() and looks < _LOOKS:
                looks += self._has_told_unseen()
                self._closed.wait(_LOOK_AGAIN)
        finally:
            self._looking.release()

    def _has_told_unseen(self) -> bool:
        """Say what there is to be said; False if libvirt cannot be asked."""
        try:
            for listed in self._machines.list_all():
                self._tell_unseen(listed)
        except Unavailable as error:
            log.debug("looking back later: %s", error)
            return False
        return True

    def _tell_unseen(self, listed: Machine) -> None:
        try:
            if not self._starts.may_be_once(listed):
                return
            with self._turns.of(listed.uuid) as machine:
                device = self._starts.ended_once(machine)
        except (NoSuchMachine, Busy, HostBusy, Refused, CannotBoot) as error:
            log.debug("how %s has ended is not known: %s", _named(listed), error)
            return
        if device is not None and listed.name not in self._told:
            self._told.add(listed.name)
            log.warning(
                "the one-time boot (%s) has ended while nobody saw how, and the machine stays off "
                "until it is started: %s",
                device,
                _named(listed),
            )


def _named(machine: Machine) -> str:
    return f"machine={machine.name!r} uuid={machine.uuid}"
