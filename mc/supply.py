"""Cutting a machine's power, and seeing when it is off."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mc.errors import NoSuchMachine, Refused, Stopping, Unavailable
from mc.machines import Machine, Machines
from mc.virsh import Virsh

# Seconds between two looks at a machine that one waits for.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5

T = TypeVar("T")


class Supply:
    """The power supply of every machine."""

    def __init__(self, machines: Machines, virsh: Virsh) -> None:
        self._machines = machines
        self._virsh = virsh

    def cut(self, uuid: str) -> None:
        """Power off, after a chance to flush the disks where the hypervisor takes it."""
        number = self.number(uuid)
        try:
            self._virsh.destroy(uuid, graceful=True)
        except Refused:
            if number is not None and self.number(uuid) == number:
                self._virsh.destroy(uuid)

    def cut_unless_off_since(self, machine: Machine) -> list[str]:
        """Power off unless the machine has been off since it was looked up; the steps done."""
        if self.number(machine.uuid) != machine.id:
            return []
        self.cut(machine.uuid)
        return ["destroy"]

    def wait_until_off(self, machine: Machine, seconds: float) -> None:
        """Return when the machine has been off, also if someone started it again since.

        A libvirt that is away for a while does not end the wait.
        """
        for number in polled(lambda: self._number_if_known(machine), seconds):
            if number != machine.id:
                return

    def number(self, uuid: str) -> int | None:
        """libvirt's number of this run of the machine; None when it is off, or gone altogether."""
        try:
            return self._machines.find(uuid).id
        except NoSuchMachine:
            return None

    def _number_if_known(self, machine: Machine) -> int | None:
        """The machine's number; the one that it had if libvirt cannot be asked at the moment."""
        try:
            return self.number(machine.uuid)
        except Stopping:
            raise
        except Unavailable:
            return machine.id


def polled(read: Callable[[], T], seconds: float) -> Iterator[T]:
    """What `read` says now, and again and again until `seconds` have passed."""
    end = time.monotonic() + seconds
    pause = _SHORTEST_PAUSE
    while True:
        yield read()
        remaining = end - time.monotonic()
        if remaining <= 0:
            return
        time.sleep(min(pause, remaining))
        pause = min(2 * pause, _LONGEST_PAUSE)
