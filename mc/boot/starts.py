"""Starting machines by what is set, and ending what runs by something else."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from threading import Condition

from mc.boot.definitions import Definitions
from mc.boot.runs import OWN_ENDS, POWER_OFF
from mc.domain_xml import order
from mc.domain_xml.order import Device
from mc.errors import (
    ControllerError,
    Refused,
    Stopping,
    Transient,
    Unavailable,
)
from mc.machine import migration
from mc.machine.machines import FoundMachine, Machine
from mc.machine.supply import Supply
from mc.virsh import Virsh

log = logging.getLogger(__name__)

# Seconds after a reset of ours in which QEMU's event of it may tell that it came to pass.
_RESETTING = 5.0
# Seconds that a guest may take to obey when it is asked to reboot; a later power-off is one.
_REBOOTING = 600.0
# Seconds that the daemon's end waits for machines that have been cut to be started.
_FINISHING = 5.0


@dataclass(frozen=True)
class Sequel:
    """What follows on the end of a run: whether the machine starts by its order, or stays off.

    device: that of the one-time boot that has ended, None if it was none.
    """

    device: Device | None
    starts: bool


@dataclass(frozen=True)
class _Start:
    """How a machine is to be started, all that it takes being prepared.

    run: libvirt's number of the run that is to end before, if any. once: the XML of a one-time
    boot from `device`, None for a start by the persistent definition. marked: that definition as it
    was before the mark for this boot was taken away. is_tidied: whether it is to tell no more of a
    one-time boot once the machine has started.
    """

    uuid: str
    run: int | None
    once: str | None = None
    device: Device | None = None
    marked: str | None = None
    is_tidied: bool = False


class Starts:
    """Starts, resets and ends machines; the caller holds the turn.

    An order set reaches the next boot only in a new hypervisor process, so a machine whose
    running order is not the next one is switched off and on where others are reset. Whatever can
    fail before a machine is switched off to be started again is done before.

    The steps taken are added to `done`.
    """

    def __init__(self, virsh: Virsh, supply: Supply, definitions: Definitions) -> None:
        self._virsh = virsh
        self._supply = supply
        self._definitions = definitions
        self._changed = Condition()
        self._under_way = 0
        self._closed = False
        # By UUID, times of the monotonic clock.
        self._reset_at: dict[str, float] = {}
        self._reboot_until: dict[str, float] = {}
        # The devices of one-time boots that run, or have run last.
        self._once: dict[str, Device | None] = {}

    def start(self, uuid: str, done: list[str], xml: str | None = None) -> None:
        """Start a machine: by its one-time device if one is set, which is then forgotten.

        xml: its definition, if that was read or written just before, while QEMU's events are heard.
        The mark goes before the machine starts: a crash in between loses a one-time boot, but
        never repeats one, and with it an installation.
        """
        start = self._prepared(uuid, None, xml, done)
        if start is not None:
            self._carry_out(start, lambda: True, done)

    def restart(self, machine: FoundMachine, done: list[str], *, only_if_cut: bool = False) -> bool:
        """Off and on: the machine gets a new hypervisor process. Whether it was started.

        One that has been off since it was looked up is started too, unless others have done so,
        or `only_if_cut`. Raises `Transient` if there would be nothing left to start, `Migrating`.
        """
        migration.refuse(self._virsh, machine)
        start = self._prepared(machine.uuid, machine.id, None, done)

        def cut() -> bool:
            if self._supply.cut_to_start(machine, done):
                return True
            return not only_if_cut and self._supply.number(machine.uuid) is None

        return start is not None and self._carry_out(start, cut, done)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """What a caller begins in the block is not broken off by `close`; `Stopping` after that."""
        with self._changed:
            if self._closed:
                raise Stopping
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Begin nothing more, and give what has begun some seconds: else machines stay off."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._under_way == 0, _FINISHING)

    def _prepared(
        self, uuid: str, run: int | None, xml: str | None, done: list[str]
    ) -> _Start | None:
        """All that a start takes, done; None if another run than this one has begun since.

        xml: the definition, if it was read while QEMU's events are heard. Raises `CannotBoot` if
        the one-time device has gone.
        """
        upcoming = xml or self._definitions.read(uuid)
        boot = order.read_ours(upcoming)
        if boot is None or not (boot.once or boot.begun):
            return _Start(uuid, run)
        if xml is None:
            self._definitions.listen()
            # That may have taken a while.
            return self._prepared(uuid, run, self._definitions.read(uuid), done)
        if self._definitions.has_image(uuid):
            # A saved image goes on where it was, maybe in a one-time boot: that is no boot.
            return _Start(uuid, run)
        if boot.once is None:
            return _Start(uuid, run, is_tidied=True)
        once = order.booting(upcoming, boot.once, self._definitions.roles(upcoming))
        # To define what was undefined meanwhile would bring it back.
        if run is not None and not self._supply.startable(uuid, run):
            return None
        self._definitions.define(order.begun(upcoming), done)
        return _Start(uuid, run, once, boot.once, marked=upcoming)

    def _carry_out(self, start: _Start, clear: Callable[[], bool], done: list[str]) -> bool:
        """Start the machine once it is off, as `clear` sees to; whether that was done.

        What was prepared is taken back if libvirt refuses one or the other.
        """
        try:
            if not clear():
                # Another controller may have cut it, and be about to start it by that mark.
                return False
            if start.once is None:
                self._virsh.start(start.uuid)
                done.append("start")
            else:
                self._virsh.create(start.once)
                self._once[start.uuid] = start.device
                done.append("create")
        except ControllerError as error:
            if start.marked and not (isinstance(error, Unavailable) and error.unknown):
                self._mark_again(start, start.marked, done)
            raise
        self._definitions.forget(start.uuid)
        if start.once is None:
            self._once.pop(start.uuid, None)
        if start.is_tidied:
            self.forget_begun(start.uuid)
        return True

    def _mark_again(self, start: _Start, marked: str, done: list[str]) -> None:
        """Unless the machine has been undefined, or somebody else has started it: maybe by that."""
        try:
            if self._supply.startable(start.uuid, start.run):
                self._definitions.define(marked, done)
        except ControllerError as error:
            log.warning("a mark for one boot is lost: %s", error)

    def reset(self, machine: FoundMachine, done: list[str]) -> None:
        """Reset a machine into the order that is set, in a new process where a reset would end it.

        Raises `Transient` if that process would be its last.
        """
        live = self._definitions.running(machine.uuid)
        if order.ends_on_reboot(live) or self._is_pending(machine, live):
            self.restart(machine, done)
            return
        self._reset_at[machine.uuid] = time.monotonic()
        self._virsh.reset(machine.uuid)
        done.append("reset")

    def has_reset(self, uuid: str, at: float) -> bool:
        """Whether the reset of which QEMU has told is our latest one; each counts once.

        An order may be set before QEMU does what it has promised.
        """
        since = at - self._reset_at.get(uuid, inf)
        return 0 <= since <= _RESETTING and self._reset_at.pop(uuid, None) is not None

    def reboot(self, machine: FoundMachine, done: list[str]) -> None:
        """Ask the guest to reboot. Where that ends its process it is started when it has obeyed."""
        if order.ends_on_reboot(self._definitions.running(machine.uuid)):
            if not machine.persistent:
                raise Transient
            self._reboot_until[machine.uuid] = time.monotonic() + _REBOOTING
        self._virsh.reboot(machine.uuid)
        done.append("reboot")

    def shutdown(self, machine: FoundMachine, done: list[str]) -> None:
        """Ask the guest to power off."""
        self._reboot_until.pop(machine.uuid, None)
        self._virsh.shutdown(machine.uuid)
        done.append("shutdown")

    def reboots_wrongly(self, machine: FoundMachine, after: float, before: float) -> bool:
        """Whether a reboot inside the running hypervisor process boots the wrong device.

        Only for machines whose order this controller has set, between two times of the monotonic
        clock as far as it is known when.
        """
        if not after <= self._definitions.set_at(machine.uuid) <= before:
            return False
        live = self._definitions.running(machine.uuid)
        # A process that ends at a reboot has had none: the one in question was before it.
        return not order.ends_on_reboot(live) and self._is_pending(machine, live)

    def is_followed(self, machine: Machine) -> bool:
        """Whether a reboot or the end of the machine's run is to be followed, as things stand."""
        if machine.id is None:
            return False
        live = self._definitions.running(machine.uuid)
        return order.ends_on_reboot(live) or self._is_other(machine.uuid, live)

    def _is_pending(self, machine: FoundMachine, live: str) -> bool:
        """Whether what this controller has set is not what the machine runs by, by this XML."""
        return machine.persistent and self._is_other(machine.uuid, live)

    def _is_other(self, uuid: str, live: str) -> bool:
        upcoming = self._definitions.read(uuid)
        if not (order.is_ours(upcoming) or order.is_ours(live)):
            return False
        return order.reboots_wrongly(upcoming, live)

    def sequel(self, uuid: str, reason: str) -> Sequel | None:
        """What is to follow on a run that has ended for this reason of QEMU's; None: nothing."""
        asked = time.monotonic() < self._reboot_until.pop(uuid, -inf) and reason in OWN_ENDS
        xml = self._definitions.read(uuid)
        # Whoever has defined the machine meanwhile may have taken the note away.
        boot = order.read_ours(xml)
        begun = (boot.begun if boot else None) or self._once.get(uuid)
        if begun is None:
            return Sequel(None, starts=True) if asked else None
        # What libvirt does itself at the end of any other run of the machine.
        action = order.lifecycle(xml, "on_poweroff" if reason == POWER_OFF else "on_reboot")
        return Sequel(begun, starts=asked or (reason in OWN_ENDS and action == "restart"))

    def forget_begun(self, uuid: str) -> None:
        """Note that a one-time boot is over. To fail is no harm to the machine."""
        xml = self._definitions.read(uuid)
        tidied = order.ended(xml)
        try:
            if tidied != xml:
                self._virsh.define(tidied)
        except Refused as error:
            log.warning("the note of a one-time boot stays: %s", error)

    def may_be_once(self, machine: Machine) -> bool:
        """Whether the machine runs by a one-time boot, or one has ended; also without the turn."""
        boot = order.read_ours(self._definitions.running(machine.uuid))
        noted = boot is not None and (boot.running or boot.begun)
        return bool(noted or self._once.get(machine.uuid))

    def ended_once(self, machine: FoundMachine) -> Device | None:
        """The device of a one-time boot that has ended while nobody saw how, if it is off.

        What runs by one is kept in mind.
        """
        if machine.id is not None:
            running = order.read_ours(self._definitions.running(machine.uuid))
            self._once[machine.uuid] = running.running if running else None
            return None
        boot = order.read_ours(self._definitions.read(machine.uuid))
        if boot is None or boot.begun is None or self._definitions.goes_on(machine.uuid):
            return None
        return boot.begun
