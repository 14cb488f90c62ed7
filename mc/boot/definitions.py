"""The persistent definitions of machines, as far as they say what boots."""

import logging
import time
from collections.abc import Callable
from math import inf

from mc.boot.backup import Backups
from mc.domain_xml import order
from mc.domain_xml.devices import Role, role_on_host
from mc.errors import Refused
from mc.machine import migration
from mc.machine.machines import FoundMachine
from mc.virsh import Virsh

# What libvirt says of a machine that has no saved memory image.
_NO_IMAGE = "does not have managed save image"

log = logging.getLogger(__name__)


class Definitions:
    """Reads and changes them; the caller holds the machine's turn.

    A backup comes before a change of what is the administrator's; notes are the controller's own.
    """

    def __init__(
        self, virsh: Virsh, backups: Backups, listen: Callable[[], None] = lambda: None
    ) -> None:
        """`listen` has QEMU's events heard; it may take a while, so what was read before is old."""
        self._virsh = virsh
        self._backups = backups
        self.listen = listen
        # By UUID, times of the monotonic clock.
        self._set_at: dict[str, float] = {}

    def read(self, uuid: str) -> str:
        """The XML by which the machine starts next, with its secrets."""
        return self._virsh.dumpxml(uuid, inactive=True)

    def running(self, uuid: str) -> str:
        """The XML by which the machine runs, if it does; without secrets, and not to be defined."""
        return self._virsh.dumpxml(uuid)

    def has_image(self, uuid: str) -> bool:
        """Whether there is a saved memory image, from which the machine goes on at its next start.

        Also of one that runs: that was not started from it.
        """
        try:
            self._virsh.managedsave_dumpxml(uuid)
        except Refused as error:
            if _NO_IMAGE in error.words:
                return False
            # Not every driver knows that command, nor can every image be read.
            return self._virsh.dominfo(uuid)["Managed save"] == "yes"
        return True

    def goes_on(self, uuid: str) -> bool:
        """Whether what a machine that was off was at goes on: from its image, or on another host.

        Or it has been started since it was looked up, by whoever saw its end.
        """
        return self.has_image(uuid) or not migration.is_off_here(self._virsh, uuid)

    def change(self, machine: FoundMachine, old: str, new: str, done: list[str]) -> None:
        """Define what was set, as `define_on`. A backup is for what is the administrator's."""
        if new == old:
            return
        before, after = order.read(old), order.read(new)
        if after.order != before.order or after.once not in (before.once, None):
            self._backups.save(machine.name, order.without_marks(old))
        if machine.id is not None and not order.reboots_wrongly(old, self.running(machine.uuid)):
            self._set_at[machine.uuid] = time.monotonic()
        # To remember who asked for the order that there is changes nothing about it.
        changes = (before.order, before.once) != (after.order, after.once)
        self.define_on(machine, new, done if changes else [])

    def define_on(self, machine: FoundMachine, xml: str, done: list[str]) -> None:
        """Define what is to hold for a machine that may be on.

        Raises `ChangeLost` if that went to another host meanwhile, with the definition of before.
        """
        self.define(xml, done)
        migration.check_stayed(self._virsh, machine)

    def define(self, xml: str, done: list[str]) -> None:
        self._virsh.define(xml)
        done.append("define")

    def roles(self, xml: str) -> dict[str, Role]:
        """What the machine's passed-through devices are, by the host's own account."""
        roles = {}
        for name, device in order.node_devices(xml).items():
            try:
                roles[name] = role_on_host(self._virsh.nodedev_dumpxml(device))
            except Refused as error:
                log.debug("what %s is cannot be told: %s", name, error)
        return roles

    def set_at(self, uuid: str) -> float:
        """When the running machine was given another order than it runs by; -inf if unknown."""
        return self._set_at.get(uuid, -inf)

    def forget(self, uuid: str) -> None:
        """Take note that the machine has been started by its order."""
        self._set_at.pop(uuid, None)
