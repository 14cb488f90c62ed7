"""Performing the power verbs."""

from collections.abc import Callable
from dataclasses import dataclass

from mc.boot.starts import Starts
from mc.errors import NoSuchMachine, Refused, WrongState
from mc.machine.machines import OFF, FoundMachine, Machine, Machines, Status
from mc.machine.progress import Progress
from mc.machine.supply import Supply, polled
from mc.machine.turns import MachineTurns
from mc.machine.verbs import CYCLE, SETTLE, TRANSIENT, VERBS, Condition, Refusal, condition
from mc.virsh import Virsh

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

    def __init__(
        self,
        machines: Machines,
        virsh: Virsh,
        turns: MachineTurns,
        supply: Supply,
        starts: Starts,
    ) -> None:
        self._machines = machines
        self._turns = turns
        self._supply = supply
        self._starts = starts
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
        where the guest cannot be asked. Raises `NoSuchMachine`, `WrongState`, `Busy`, `Refused`
        or `Unavailable`, with the steps that had been done before as `done`.
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
                    self._supply.cut(machine, done)
            return Outcome(machine, verb, tuple(done), self._status_after(machine.uuid, done))

    def _carry_out(self, verb: str, machine: FoundMachine, force: bool, done: list[str]) -> None:
        """Give the commands of the plan; decide anew if the machine moved under our hands."""
        for attempts_left in reversed(range(_TRIES)):
            before, plan = self._decide(verb, machine, force)
            if (machine.id is None) != (before == Condition.OFF):
                machine = self._machines.find(machine.uuid)
            try:
                with self._starts.whole():
                    for step in plan:
                        self._steps[step](machine, done)
                return
            except Refused:
                moved = condition(self._machines.status(machine.uuid)) != before
                if done or not moved or not attempts_left:
                    raise
                machine = self._machines.find(machine.uuid)

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
        for status in polled(lambda: self._machines.status(uuid), _SETTLING_SECONDS):
            if condition(status) != Condition.SETTLING:
                break
        return status

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
