"""Cutting a machine's power, and seeing when it is off."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mc.errors import NoSuchMachine, Refused, Stopping, Unavailable
from mc.machine.machines import OFF, Machine, Machines
from mc.virsh import Virsh

# Seconds between two looks at a machine that one waits for.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5

T = TypeVar("T")


class Supply:
    """The power supply of every machine.

    A run of a machine is one life of its hypervisor process; libvirt numbers them. Power is cut by
    that number: whatever others do meanwhile, no later run is hit.
    """

    def __init__(self, machines: Machines, virsh: Virsh) -> None:
        self._machines = machines
        self._virsh = virsh

    def cut(self, machine: Machine, done: list[str]) -> bool:
        """Power off, after a chance to flush the disks where the hypervisor takes it.

        Whether it was this that has ended the run in which the machine was looked up: False if that
        was over already. The step is added to `done`.
        """
        if machine.id is None:
            return False
        try:
            self._virsh.destroy(machine.id, graceful=True)
        except Refused:
            if self.number(machine.uuid) != machine.id:
                return False
            self._virsh.destroy(machine.id)
        done.append("destroy")
        return True

    def cut_to_start(self, machine: Machine, done: list[str]) -> bool:
        """`cut` a machine that is to be started after it.

        Raises `Transient` if there would be nothing left to start: it may have been undefined since
        it was looked up.
        """
        return self._machines.lasting_state(machine.uuid) != OFF and self.cut(machine, done)

    def startable(self, uuid: str, run: int | None) -> bool:
        """Whether the machine is off, or still in the run of this number.

        Raises `Transient` if there would be nothing left to start.
        """
        number = self._machines.number(uuid)
        if number is None:
            return True
        self._machines.lasting_state(uuid)
        return number == run

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
            return self._machines.number(uuid)
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
