"""Performing the power verbs."""

from collections.abc import Callable
from dataclasses import dataclass

from mc.actions.means import Means
from mc.errors import NoAnswer, NoSuchMachine, Refused, WrongState
from mc.machine import migration
from mc.machine.machines import OFF, FoundMachine, Machine, Status
from mc.machine.progress import Progress
from mc.machine.supply import polled
from mc.machine.verbs import (
    CUT,
    CYCLE,
    HOLDS,
    SETTLE,
    TRANSIENT,
    VERBS,
    Condition,
    Refusal,
    condition,
)

# A machine that is on its way from one state to another gets this long, in seconds, to arrive.
_SETTLING_SECONDS = 5.0
# How often an action is decided anew because the machine changed its state meanwhile.
_TRIES = 3


@dataclass(frozen=True)
class Outcome:
    """A machine after a verb: the virsh commands given, `status` as libvirt says now."""

    machine: Machine
    verb: str
    done: tuple[str, ...]
    status: Status

    @property
    def changed(self) -> bool:
        return bool(self.done)


Step = Callable[[FoundMachine, list[str]], object]
"""Takes a step on a machine, and adds the commands given to a list."""


class Power:
    """Performs the verbs, one at a time on each machine."""

    def __init__(self, means: Means) -> None:
        self._virsh = virsh = means.virsh
        self._machines = means.machines
        self._turns = means.turns
        self._supply = supply = means.supply
        self._starts = starts = means.starts
        self._steps: dict[str, Step] = {
            "start": lambda machine, done: starts.start(machine.uuid, done),
            "restart": starts.restart,
            "shutdown": starts.shutdown,
            "reboot": starts.reboot,
            "reset": starts.reset,
            "destroy": supply.cut,
            "resume": _step(virsh.resume, "resume"),
            "dompmwakeup": _step(virsh.dompmwakeup, "dompmwakeup"),
            "inject-nmi": _step(virsh.inject_nmi, "inject-nmi"),
        }

    def perform(
        self, verb: str, reference: str, *, wait: float = 0, force: bool = False
    ) -> Outcome:
        """Do a verb on the machine that bears this name or UUID now.

        `wait` seconds are given to the guest to power off; `force` then cuts the power, at once
        where the guest cannot be asked. Raises `NoSuchMachine`, `WrongState`, `Busy`, `Refused`,
        `Migrating` or `Unavailable`, with the steps that had been done before as `done`.
        """
        with Progress() as progress:
            done = progress.done
            with self._turns.of(reference) as machine:
                progress.machine = machine
                self._carry_out(verb, machine, force, done)
            if wait and machine.id is not None:
                self._supply.wait_until_off(machine, wait)
            if force and machine.id is not None:
                with self._turns.turn(machine.uuid):
                    self._refuse_migrating(machine, by_cutting=True)
                    self._supply.cut(machine, done)
            return Outcome(machine, verb, tuple(done), self._status_after(machine.uuid, done))

    def _carry_out(self, verb: str, machine: FoundMachine, force: bool, done: list[str]) -> None:
        """Give the commands of the plan; decide anew if the machine moved under our hands."""
        for attempts_left in reversed(range(_TRIES)):
            before = condition(machine)
            asked = VERBS[verb].plans[before]
            # Whoever cycles the power asks by itself. What comes in is about to change, too.
            by_itself = asked == CYCLE and machine.persistent
            if (asked != HOLDS or before == Condition.SETTLING) and not by_itself:
                self._refuse_migrating(machine, by_cutting=force or asked == CUT)
            if asked is SETTLE:
                machine = self._settled(machine.uuid)
            plan = self._decide(verb, machine, force)
            try:
                with self._starts.whole():
                    for step in plan:
                        self._steps[step](machine, done)
                return
            except Refused:
                now = self._machines.find(machine.uuid)
                if done or condition(now) == condition(machine) or not attempts_left:
                    raise
                machine = now

    def _refuse_migrating(self, machine: FoundMachine, *, by_cutting: bool) -> None:
        try:
            migration.refuse(self._virsh, machine)
        except NoAnswer:
            # A hypervisor that hangs is what power is cut for.
            if not by_cutting:
                raise

    def _decide(self, verb: str, machine: FoundMachine, force: bool) -> tuple[str, ...]:
        plan = VERBS[verb].plans[condition(machine)]
        if plan == CYCLE and not machine.persistent:
            plan = TRANSIENT
        if isinstance(plan, Refusal):
            if not force:
                reason = machine.reason or self._machines.status(machine.uuid).reason
                raise WrongState(verb, machine.state, reason, plan.advice)
            plan = ("destroy",)
        return plan

    def _settled(self, uuid: str) -> FoundMachine:
        """The machine when it has arrived, or when it has had its time to."""
        for machine in polled(lambda: self._machines.find(uuid), _SETTLING_SECONDS):
            if condition(machine) != Condition.SETTLING:
                break
        return machine

    def _status_after(self, uuid: str, done: list[str]) -> Status:
        """What libvirt says now; a transient machine is gone once it is off."""
        try:
            return self._machines.status(uuid)
        except NoSuchMachine:
            if "destroy" not in done and "shutdown" not in done:
                raise
            return Status(OFF, "transient")


def _step(command: Callable[[str], None], name: str) -> Step:
    """A step that is one command."""

    def take(machine: FoundMachine, done: list[str]) -> None:
        command(machine.uuid)
        done.append(name)

    return take
