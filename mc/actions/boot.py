"""The boot verbs: set what boots, then boot it, whatever state the machine is in."""

from mc.actions.means import Means
from mc.actions.power import Outcome
from mc.domain_xml.order import Device
from mc.machine.machines import FoundMachine
from mc.machine.progress import Progress
from mc.machine.verbs import Condition, condition

BOOT_VERBS: dict[str, Device] = {"pxeboot": "pxe", "diskboot": "disk", "defaultboot": "default"}
"""The verbs, and the devices that they set."""

# Whose guest can be asked to shut down, or is at it already.
_LISTENING = (Condition.RUNNING, Condition.SETTLING)


class BootVerbs:
    """Performs the boot verbs, one at a time on each machine."""

    def __init__(self, means: Means) -> None:
        self._machines = means.machines
        self._turns = means.turns
        self._supply = means.supply
        self._control = means.boot
        self._starts = means.starts

    def set(
        self,
        reference: str,
        device: Device | None,
        *,
        once: bool = False,
        discard_saved: bool = False,
    ) -> tuple[FoundMachine, tuple[str, ...]]:
        """Set what boots next, or next only, and power nothing: the machine, the steps taken.

        None takes a one-time device back, and changes nothing else.
        """
        self._control.listen()
        with Progress() as progress, self._turns.of(reference) as machine:
            progress.machine = machine
            if device is None:
                self._control.forget_once(machine, progress.done)
            else:
                self._control.set(
                    machine, device, progress.done, once=once, discard_saved=discard_saved
                )
        return machine, tuple(progress.done)

    def perform(
        self,
        verb: str,
        reference: str,
        *,
        grace: float,
        once: bool = False,
        discard_saved: bool = False,
    ) -> Outcome:
        """Set the order, for one boot only with `once`, and boot the machine by it.

        A guest that runs is asked to shut down and gets `grace` seconds for it, in which other
        verbs may take their turn; then its power is cut. Raises what `BootControl.set` and
        `Power.perform` raise, with the steps that had been done before as `done`.
        """
        self._control.listen()
        with Progress() as progress:
            done = progress.done
            with self._turns.of(reference) as machine, self._starts.whole():
                progress.machine = machine
                xml = self._control.set(
                    machine, BOOT_VERBS[verb], done, once=once, discard_saved=discard_saved
                )
                asked = self._start_or_ask(machine, xml, grace, done)
            if machine.id is not None:
                if asked:
                    self._supply.wait_until_off(machine, grace)
                with self._turns.turn(machine.uuid), self._starts.whole():
                    self._starts.restart(machine, done)
            return Outcome(machine, verb, tuple(done), self._machines.status(machine.uuid))

    def _start_or_ask(self, machine: FoundMachine, xml: str, grace: float, done: list[str]) -> bool:
        """Start a machine that is off; else whether its guest is on its way to being off."""
        if machine.id is None:
            self._starts.start(machine.uuid, done, xml)
            return False
        now = condition(machine)
        if grace > 0 and now == Condition.RUNNING:
            self._starts.shutdown(machine, done)
        return now in _LISTENING
