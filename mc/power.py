"""Performing the power verbs."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mc.errors import (
    ControllerError,
    NoSuchMachine,
    Refused,
    Stopping,
    Unavailable,
    WrongState,
)
from mc.machines import OFF, FoundMachine, Machine, Machines, Status
from mc.turns import MachineTurns
from mc.verbs import CYCLE, SETTLE, TRANSIENT, VERBS, Condition, Refusal, condition
from mc.virsh import Virsh

# A machine that is on its way from one state to another gets this long, in seconds, to arrive.
_SETTLING_SECONDS = 5.0
# How often an action is decided anew because the machine changed its state meanwhile.
_TRIES = 3
# Seconds between two looks at a machine that one waits for.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """A machine after a verb: `changed` if a command was given, `status` as libvirt says now."""

    machine: Machine
    verb: str
    changed: bool
    status: Status


class Power:
    """Performs the verbs, one at a time on each machine."""

    def __init__(self, machines: Machines, virsh: Virsh, turns: MachineTurns) -> None:
        self._machines = machines
        self._virsh = virsh
        self._turns = turns
        self._steps = {
            "start": virsh.start,
            "resume": virsh.resume,
            "dompmwakeup": virsh.dompmwakeup,
            "shutdown": virsh.shutdown,
            "reboot": virsh.reboot,
            "reset": virsh.reset,
            "destroy": self._destroy,
            "inject-nmi": virsh.inject_nmi,
        }

    def perform(
        self, verb: str, reference: str, *, wait: float = 0, force: bool = False
    ) -> Outcome:
        """Do a verb on the machine that bears this name or UUID now.

        `wait` seconds are given to the guest to power off; `force` then cuts the power, at once
        where the guest cannot be asked. Raises `NoSuchMachine`, `WrongState`, `Busy`, `Refused`
        or `Unavailable`, with the steps that had been done before as `done`.
        """
        done: list[str] = []
        machine: Machine | None = None
        try:
            with self._turns.of(reference) as machine:
                self._carry_out(verb, machine, force, done)
            if wait and machine.id is not None:
                self._wait_until_off(machine, wait)
            if force and machine.id is not None:
                self._force_off(machine, done)
            status = self._status_after(machine.uuid, done)
        except ControllerError as error:
            error.uuid = machine.uuid if machine else error.uuid
            error.done = tuple(done)
            raise
        return Outcome(machine, verb, bool(done), status)

    def _carry_out(self, verb: str, machine: FoundMachine, force: bool, done: list[str]) -> None:
        """Give the commands of the plan; decide anew if the machine moved under our hands."""
        for attempts_left in reversed(range(_TRIES)):
            before, plan = self._decide(verb, machine, force)
            try:
                for step in plan:
                    self._steps[step](machine.uuid)
                    done.append(step)
                return
            except Refused:
                moved = condition(self._machines.status(machine.uuid)) != before
                if done or not moved or not attempts_left:
                    raise

    def _decide(
        self, verb: str, machine: FoundMachine, force: bool
    ) -> tuple[Condition, tuple[str, ...]]:
        plans = VERBS[verb].plans
        status = self._machines.status(machine.uuid)
        if plans[condition(status)] is SETTLE:
            status = self._settled(machine.uuid)
        plan = plans[condition(status)]
        if plan == CYCLE and not machine.persistent:
            plan = TRANSIENT
        if isinstance(plan, Refusal):
            if not force:
                raise WrongState(verb, status.state, status.reason, plan.advice)
            plan = ("destroy",)
        return condition(status), plan

    def _settled(self, uuid: str) -> Status:
        """The status when the machine has arrived, or when it has had its time to."""
        for status in self._polled(lambda: self._machines.status(uuid), _SETTLING_SECONDS):
            if condition(status) != Condition.SETTLING:
                break
        return status

    def _destroy(self, uuid: str) -> None:
        """Cut the power: after a chance to flush its disks where the hypervisor takes it."""
        number = self._id(uuid)
        try:
            self._virsh.destroy(uuid, graceful=True)
        except Refused:
            if number is not None and self._id(uuid) == number:
                self._virsh.destroy(uuid)

    def _wait_until_off(self, machine: Machine, seconds: float) -> None:
        """Return when the machine has been off, also if someone started it again since.

        A libvirt that is away for a while does not end the wait.
        """
        for number in self._polled(lambda: self._id_if_known(machine), seconds):
            if number != machine.id:
                return

    def _id_if_known(self, machine: Machine) -> int | None:
        """The machine's number; the one that it had if libvirt cannot be asked at the moment."""
        try:
            return self._id(machine.uuid)
        except Stopping:
            raise
        except Unavailable:
            return machine.id

    def _force_off(self, machine: Machine, done: list[str]) -> None:
        """Cut the power, unless the machine has been off since."""
        with self._turns.turn(machine.uuid):
            if self._id(machine.uuid) == machine.id:
                self._destroy(machine.uuid)
                done.append("destroy")

    def _id(self, uuid: str) -> int | None:
        """libvirt's number of this run of the machine; None when it is off, or gone altogether."""
        try:
            return self._machines.find(uuid).id
        except NoSuchMachine:
            return None

    def _status_after(self, uuid: str, done: list[str]) -> Status:
        """What libvirt says now; a transient machine is gone once it is off."""
        try:
            return self._machines.status(uuid)
        except NoSuchMachine:
            if "destroy" not in done and "shutdown" not in done:
                raise
            return Status(OFF, "transient")

    @staticmethod
    def _polled(read: Callable[[], T], seconds: float) -> Iterator[T]:
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
