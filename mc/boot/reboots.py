"""The reboot rule: a reboot boots what is set, also if the guest itself caused it."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

from mc.boot.control import BootControl
from mc.errors import ControllerError, NoSuchMachine
from mc.machines import Machines
from mc.turns import MachineTurns
from mc.verbs import Condition, condition

log = logging.getLogger(__name__)

_AT_ONCE = 8


class RebootRule:
    """Turns a reboot into off and on where the running order is not the one to boot next.

    libvirt and QEMU keep the boot order for the life of the QEMU process, and reboots happen
    inside it. What is known is read anew at each event, so nothing is forgotten when the daemon,
    libvirtd or the stream of events is restarted.
    """

    def __init__(self, machines: Machines, turns: MachineTurns, control: BootControl) -> None:
        self._machines = machines
        self._turns = turns
        self._control = control
        self._threads = ThreadPoolExecutor(_AT_ONCE, "reboot rule")

    def rebooted(self, name: str) -> None:
        """Take note that the machine of this name has rebooted; returns at once."""
        if not self._machines.included(name):
            return
        self._threads.submit(self._apply, name, time.monotonic())

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _apply(self, name: str, moment: float) -> None:
        try:
            with self._turns.of(name) as machine:
                # Some firmware makes several events of a reboot; those that waited for the turn
                # are about a process that is gone.
                if self._control.started_since(machine.uuid, moment):
                    return
                if self._control.is_echo(machine.uuid, moment):
                    return
                if not self._reboots_wrongly(machine.uuid):
                    return
                self._control.restart(machine.uuid)
        except NoSuchMachine as error:
            # It has gone since.
            log.debug("reboot of %r not followed: %s", name, error)
            return
        except ControllerError as error:
            log.warning("reboot of %r not followed: %s", name, error)
            return
        except Exception:
            log.exception("reboot of %r not followed", name)
            return
        ms = (time.monotonic() - moment) * 1000
        log.info("rebooted into its new order: machine=%r uuid=%s ms=%d", name, machine.uuid, ms)

    def _reboots_wrongly(self, uuid: str) -> bool:
        running = condition(self._machines.status(uuid)) == Condition.RUNNING
        return running and self._control.needs_new_process(uuid)
