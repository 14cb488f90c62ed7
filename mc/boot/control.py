"""Setting what a machine boots."""

from dataclasses import dataclass

from mc.boot.definitions import Definitions
from mc.domain_xml import order
from mc.domain_xml.order import Device
from mc.errors import NotConfigurable
from mc.machine import migration
from mc.machine.machines import FoundMachine
from mc.virsh import Virsh


@dataclass(frozen=True)
class BootStatus:
    """What boots: devices in order, such as `disk:vda`.

    `pending` if the machine runs by another order than this one; `device` is what the order was
    asked for, None if it is somebody else's; `once` is the device of the next boot alone, or None.
    running_once: the device of the one-time boot that the machine runs by; ended_once: that of one
    which has ended while nobody saw how, so that the machine stays off until it is started.
    """

    order: tuple[str, ...]
    pending: bool
    device: Device | None
    once: Device | None
    running_once: Device | None
    ended_once: Device | None
    default: tuple[str, ...]


class BootControl:
    """Every change is made from a fresh dump; the caller holds the turn.

    An order set reaches the next boot only in a new hypervisor process: see `Starts`. The steps
    taken are added to `done`.
    """

    def __init__(self, virsh: Virsh, definitions: Definitions) -> None:
        self._virsh = virsh
        self._definitions = definitions

    def status(self, machine: FoundMachine) -> BootStatus:
        """Also of a transient machine, whose only order is the one that it runs by."""
        upcoming = self._virsh.dumpxml(machine.uuid, inactive=machine.persistent)
        live = self._definitions.running(machine.uuid) if machine.id is not None else None
        boot = order.read(upcoming)
        ended = boot.begun if live is None else None
        return BootStatus(
            boot.order.labels,
            live is not None and order.is_pending(upcoming, live),
            boot.asked,
            boot.once,
            order.read(live).running if live else None,
            None if ended and self._definitions.goes_on(machine.uuid) else ended,
            boot.default.labels,
        )

    def listen(self) -> None:
        """Have QEMU's events heard, before anything is read whose boot is to be set."""
        self._definitions.listen()

    def set(
        self,
        machine: FoundMachine,
        device: Device,
        done: list[str],
        *,
        once: bool = False,
        discard_saved: bool = False,
    ) -> str:
        """Set what boots next, or next only: the definition as it is then.

        Raises `NotConfigurable` for a transient machine and for one with a saved memory image
        (unless that may be discarded), `CannotBoot` if there is no such device, `BackupFailed`,
        `Migrating`, `ChangeLost`.
        """
        migration.refuse(self._virsh, machine)
        has_image = self._check(machine, discard_saved)
        old = self._definitions.read(machine.uuid)
        roles = self._definitions.roles(old) if device != "default" else {}
        if once:
            new = order.with_once(old, device, roles)
        else:
            new = order.with_order(order.with_once(old, None), device, roles)
        self._definitions.change(machine, old, new, done)
        if has_image:
            self._virsh.managedsave_remove(machine.uuid)
            done.append("managedsave-remove")
        return new

    def forget_once(self, machine: FoundMachine, done: list[str]) -> None:
        """Take a one-time device back, if one is set; the order stays.

        Raises `NotConfigurable` for a transient machine, `Migrating`, `ChangeLost`.
        """
        migration.refuse(self._virsh, machine)
        _check_persistent(machine)
        old = self._definitions.read(machine.uuid)
        self._definitions.change(machine, old, order.with_once(old, None), done)

    def _check(self, machine: FoundMachine, discard_saved: bool) -> bool:
        """Whether a saved memory image has to be given up."""
        _check_persistent(machine)
        has_image = self._definitions.has_image(machine.uuid)
        if has_image and not discard_saved:
            raise NotConfigurable(
                "the machine has a saved memory image, and would go on where that was saved "
                "instead of booting; discard_saved=true gives the image up"
            )
        return has_image


def _check_persistent(machine: FoundMachine) -> None:
    if not machine.persistent:
        raise NotConfigurable("the machine is transient: it has no configuration to change")
