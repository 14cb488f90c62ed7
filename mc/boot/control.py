"""Setting what a machine boots, and starting it by that."""

import time
from dataclasses import dataclass
from math import inf

from mc.boot import order
from mc.boot.backup import Backups
from mc.boot.order import Device
from mc.errors import ControllerError, NotConfigurable, Unavailable
from mc.machines import FoundMachine
from mc.supply import Supply
from mc.virsh import Virsh

# A reset makes an event, and firmware up to two more of it, within a tenth of a second; more on a
# busy host. A guest is hardly up and reboots by itself in this time.
_ECHO_SECONDS = 0.25


@dataclass(frozen=True)
class BootStatus:
    """What boots: devices in order, such as `disk:vda`.

    `pending` if the machine runs by another order than this one; `once` is the device of the next
    boot alone, or None.
    """

    order: tuple[str, ...]
    pending: bool
    once: Device | None
    default: tuple[str, ...]


class BootControl:
    """Every change is made from a fresh dump and after a backup; the caller holds the turn.

    An order set reaches the next boot only in a new hypervisor process, so a machine whose
    running order is not the next one is switched off and on where others are reset.
    """

    def __init__(self, virsh: Virsh, supply: Supply, backups: Backups) -> None:
        self._virsh = virsh
        self._supply = supply
        self._backups = backups
        self._started: dict[str, float] = {}
        self._resets: dict[str, float] = {}

    def status(self, machine: FoundMachine) -> BootStatus:
        """Also of a transient machine, whose only order is the one that it runs by."""
        xml = self._virsh.dumpxml(machine.uuid, inactive=machine.persistent)
        boot = order.read(xml)
        pending = (
            machine.id is not None
            and order.read(self._virsh.dumpxml(machine.uuid)).order != boot.order
        )
        return BootStatus(boot.order.labels, pending, boot.once, boot.default.labels)

    def set(
        self,
        machine: FoundMachine,
        device: Device,
        done: list[str],
        *,
        once: bool = False,
        discard_saved: bool = False,
    ) -> None:
        """Set what boots next, or next only; the steps taken are added to `done`.

        Raises `NotConfigurable` for a transient machine and for one with a saved memory image
        (unless that may be discarded), `CannotBoot` if there is no such device, `BackupFailed`.
        """
        self._check(machine, discard_saved)
        old = self._virsh.dumpxml(machine.uuid, inactive=True)
        if once:
            new = order.with_once(old, device)
        else:
            new = order.with_order(order.with_once(old, None), device)
        self._define_if_new(machine.name, old, new, done)
        if machine.saved:
            self._virsh.managedsave_remove(machine.uuid)
            done.append("managedsave-remove")

    def forget_once(self, machine: FoundMachine, done: list[str]) -> None:
        """Take a one-time device back, if one is set; the order stays.

        Raises `BackupFailed`, or `NotConfigurable` for a transient machine.
        """
        self._check(machine, discard_saved=True)
        old = self._virsh.dumpxml(machine.uuid, inactive=True)
        self._define_if_new(machine.name, old, order.with_once(old, None), done)

    def start(self, uuid: str) -> None:
        """Start a machine: by its one-time device if one is set, which is then forgotten.

        The mark goes before the machine starts: a crash in between loses a one-time boot, but
        never repeats one, and with it an installation.
        """
        xml = self._virsh.dumpxml(uuid, inactive=True)
        once = order.read(xml).once if order.is_ours(xml) else None
        info = self._virsh.dominfo(uuid) if once else {}
        if once is None or info["Managed save"] == "yes":
            # A saved image goes on where it was: that is no boot.
            self._virsh.start(uuid)
        else:
            self._boot_once(info["Name"], xml, once)
        self._started[uuid] = time.monotonic()

    def _boot_once(self, name: str, xml: str, device: Device) -> None:
        self._define(name, xml, order.with_once(xml, None))
        try:
            self._virsh.create(order.booting(xml, device))
        except ControllerError as error:
            if not (isinstance(error, Unavailable) and error.unknown):
                self._virsh.define(xml)
            raise

    def started_since(self, uuid: str, moment: float) -> bool:
        """Whether this controller has started the machine since a time of the monotonic clock."""
        return self._started.get(uuid, 0) > moment

    def reset(self, uuid: str) -> None:
        """Reset a machine into the order that is set."""
        if self.needs_new_process(uuid):
            self.restart(uuid)
        else:
            self._virsh.reset(uuid)
            self._resets[uuid] = time.monotonic()

    def is_echo(self, uuid: str, moment: float) -> bool:
        """Whether a reboot of which one heard then is the latest `reset`.

        An order that was set since is for the boot after it, however late the news of it come.
        """
        return moment - self._resets.get(uuid, -inf) <= _ECHO_SECONDS

    def restart(self, uuid: str) -> None:
        """Off and on: the machine gets a new hypervisor process."""
        self._supply.cut(uuid)
        self.start(uuid)

    def needs_new_process(self, uuid: str) -> bool:
        """Whether a reboot inside the running hypervisor process would boot the wrong device.

        Only for machines whose order this controller has set.
        """
        inactive, live = self._virsh.dumpxml(uuid, inactive=True), self._virsh.dumpxml(uuid)
        if not (order.is_ours(inactive) or order.is_ours(live)):
            return False
        upcoming = order.read(inactive)
        return upcoming.once is not None or upcoming.order != order.read(live).order

    def _check(self, machine: FoundMachine, discard_saved: bool) -> None:
        if not machine.persistent:
            raise NotConfigurable("the machine is transient: it has no configuration to change")
        if machine.saved and not discard_saved:
            raise NotConfigurable(
                "the machine has a saved memory image, and would go on where that was saved "
                "instead of booting; discard_saved=true gives the image up"
            )

    def _define_if_new(self, name: str, old: str, new: str, done: list[str]) -> None:
        if new != old:
            self._define(name, old, new)
            done.append("define")

    def _define(self, name: str, old: str, new: str) -> None:
        self._backups.save(name, old)
        self._virsh.define(new)
