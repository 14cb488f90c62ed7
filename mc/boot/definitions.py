"""The persistent definitions of machines, as far as they say what boots."""

import logging
import time
from math import inf

from mc.boot.backup import Backups
from mc.domain_xml import order
from mc.domain_xml.devices import Role, role_on_host
from mc.errors import Refused
from mc.machine.machines import FoundMachine
from mc.virsh import Virsh

log = logging.getLogger(__name__)


class Definitions:
    """Reads and changes them; the caller holds the machine's turn.

    A backup comes before a change of what is the administrator's; notes are the controller's own.
    """

    def __init__(self, virsh: Virsh, backups: Backups) -> None:
        self._virsh = virsh
        self._backups = backups
        # By UUID, times of the monotonic clock.
        self._set_at: dict[str, float] = {}

    def read(self, uuid: str) -> str:
        """The XML by which the machine starts next, with its secrets."""
        return self._virsh.dumpxml(uuid, inactive=True)

    def running(self, uuid: str) -> str:
        """The XML by which the machine runs; without secrets, and not to be defined."""
        return self._virsh.dumpxml(uuid)

    def change(self, machine: FoundMachine, old: str, new: str, done: list[str]) -> None:
        """Define what was set. A backup is for what is the administrator's; notes are ours."""
        if new == old:
            return
        before, after = order.read(old), order.read(new)
        if after.order != before.order or after.once not in (before.once, None):
            self._backups.save(machine.name, order.without_marks(old))
        if machine.id is not None and not order.reboots_wrongly(old, self.running(machine.uuid)):
            self._set_at[machine.uuid] = time.monotonic()
        # To remember who asked for the order that there is changes nothing about it.
        changes = (before.order, before.once) != (after.order, after.once)
        self.define(new, done if changes else [])

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
