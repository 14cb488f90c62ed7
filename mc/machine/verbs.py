"""The power verbs: what each does in each state of a machine."""

from dataclasses import dataclass
from enum import Enum

from mc.machine.machines import OFF as SHUT_OFF
from mc.machine.machines import FoundMachine, Status


class Condition(Enum):
    """What a power verb can find: libvirt's states, as far as they make a difference."""

    OFF = "off"
    RUNNING = "running"
    PAUSED = "paused by an administrator"
    STALLED = "paused by an I/O error"
    CRASHED = "crashed"
    SUSPENDED = "suspended by its guest"
    SETTLING = "about to change"


_BY_STATE = {
    SHUT_OFF: Condition.OFF,
    "paused": Condition.PAUSED,
    "crashed": Condition.CRASHED,
    "pmsuspended": Condition.SUSPENDED,
    "in shutdown": Condition.SETTLING,
}
_BY_PAUSE_REASON = {
    "I/O error": Condition.STALLED,
    "crashed": Condition.CRASHED,
    "shutting down": Condition.SETTLING,
    "starting up": Condition.SETTLING,
}


def condition(status: Status | FoundMachine) -> Condition:
    """`idle` and `no state` are how some hypervisors call a running machine."""
    if status.state == "paused" and status.reason in _BY_PAUSE_REASON:
        return _BY_PAUSE_REASON[status.reason]
    return _BY_STATE.get(status.state, Condition.RUNNING)


@dataclass(frozen=True)
class Refusal:
    """Why a verb is not for a condition: what to do instead."""

    advice: str


Plan = tuple[str, ...] | Refusal
"""The steps to take, each named as virsh's command if it is one; none if the goal holds already."""

# What the table is made of. Off and on stands where a reset would leave the machine stopped
# (crashed, I/O error) or wedge it (suspended).
HOLDS: Plan = ()
START: Plan = ("start",)
RESUME: Plan = ("resume",)
WAKE: Plan = ("dompmwakeup",)
ASK: Plan = ("shutdown",)
REBOOT: Plan = ("reboot",)
RESET: Plan = ("reset",)
CUT: Plan = ("destroy",)
CYCLE: Plan = ("restart",)
NMI: Plan = ("inject-nmi",)
IS_OFF = Refusal("power_on starts it")
DEAF = Refusal("its guest cannot be asked; power_on wakes it, force_off cuts its power")
STOPPING = Refusal("wait until it is off, or force_off")
# In place of off and on where there would be nothing left to start.
TRANSIENT = Refusal("it is transient, and would be gone once it is off")
# A refusal only if the machine has not arrived in another state after a while.
SETTLE = Refusal("try again in a moment, or force_off")


@dataclass(frozen=True)
class Verb:
    """A power verb; `waits` if it takes the parameters `wait` and `force`."""

    summary: str
    plans: dict[Condition, Plan]
    waits: bool = False


def _verb(summary: str, *plans: Plan, waits: bool = False) -> Verb:
    return Verb(summary, dict(zip(Condition, plans, strict=True)), waits)


_FORCE_RESET = _verb("hard reset", IS_OFF, RESET, RESET, CYCLE, CYCLE, CYCLE, CYCLE)

# In the order of Condition: off, running, paused, stalled, crashed, suspended, settling.
VERBS: dict[str, Verb] = {
    "cyclepower": _verb(
        "power on when off, ask the guest to power off when on",
        *(START, ASK, DEAF, DEAF, CYCLE, DEAF, HOLDS),
    ),
    "power_on": _verb(
        "power on, resume or wake up",
        *(START, HOLDS, RESUME, CYCLE, CYCLE, WAKE, SETTLE),
    ),
    "power_off": _verb(
        "ask the guest to power off",
        *(HOLDS, ASK, DEAF, DEAF, DEAF, DEAF, HOLDS),
        waits=True,
    ),
    "force_off": _verb(
        "cut the power",
        *(HOLDS, CUT, CUT, CUT, CUT, CUT, CUT),
    ),
    "power_cycle": _verb(
        "cut the power, then power on",
        *(IS_OFF, CYCLE, CYCLE, CYCLE, CYCLE, CYCLE, CYCLE),
    ),
    # A paused guest obeys when it is resumed.
    "reboot": _verb(
        "ask the guest to reboot",
        *(IS_OFF, REBOOT, REBOOT, DEAF, DEAF, DEAF, STOPPING),
    ),
    "force_reset": _FORCE_RESET,
    "force_reboot": _FORCE_RESET,
    "nmi": _verb(
        "inject a non-maskable interrupt",
        *(IS_OFF, NMI, NMI, NMI, NMI, NMI, NMI),
    ),
}
