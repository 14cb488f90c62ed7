"""Performing the power verbs."""

from dataclasses import dataclass

from mc.boot.control import BootControl
from mc.errors import NoSuchMachine, Refused, WrongState
from mc.machines import OFF, FoundMachine, Machine, Machines, Status
from mc.progress import Progress
from mc.supply import Supply, polled
from mc.turns import MachineTurns
from mc.verbs import CYCLE, SETTLE, TRANSIENT, VERBS, Condition, Refusal, condition
from mc.virsh import Virsh

# A machine that is on its way from one state to another gets this long, in seconds, to arrive.
_SETTLING_SECONDS = 5.0
# How often an action is decided anew because the machine changed its state meanwhile.
_TRIES = 3


@dataclass(frozen=True)
class Outcome:
    """A machine after a verb: `changed` if a command was given, `status` as libvirt says now."""

    machine: Machine
    verb: str
    changed: bool
    status: Status


class Power:
    """Performs the verbs, one at a time on each machine."""

    def __init__(
        self,
        machines: Machines,
        virsh: Virsh,
        turns: MachineTurns,
        supply: Supply,
        boot: BootControl,
    ) -> None:
        self._machines = machines
        self._turns = turns
        self._supply = supply
        self._steps = {
            "start": boot.start,
            "resume": virsh.resume,
            "dompmwakeup": virsh.dompmwakeup,
            "shutdown": virsh.shutdown,
            "reboot": virsh.reboot,
            "reset": boot.reset,
            "destroy": supply.cut,
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
        with Progress() as progress:
            done = progress.done
            with self._turns.of(reference) as machine:
                progress.machine = machine
                self._carry_out(verb, machine, force, done)
            if wait and machine.id is not None:
                self._supply.wait_until_off(machine, wait)
            if force and machine.id is not None:
                with self._turns.turn(machine.uuid):
                    done += self._supply.cut_unless_off_since(machine)
            return Outcome(machine, verb, bool(done), self._status_after(machine.uuid, done))

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
