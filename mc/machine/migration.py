"""Machines that go to another host, or come from one, while they run.

On the source nothing but libvirt's job tells: the state is `running` until the end. What is changed
there meanwhile is lost: the target got the definition as it was at the beginning.
"""

from mc.errors import ChangeLost, Migrating, Refused
from mc.machine.machines import OFF, FoundMachine
from mc.virsh import Virsh

# State and reason of a machine on its way, on its target, and at the end on its source; and of what
# stays defined on the source.
_MIGRATING, _MIGRATED = ("paused", "migrating"), (OFF, "migrated")
# Of what was defined while the source was giving it up.
_DEFINED_ANEW = (OFF, "unknown")
_OUTGOING, _INCOMING = "Outgoing migration", "Incoming migration"
# What libvirt says of a machine that comes in, of any where it knows no jobs, and of one that is
# off.
_ON_THE_TARGET = "migration statistics are available only on the source host"
_WITHOUT_JOBS, _NOT_RUNNING = "not supported by the connection driver", "domain is not running"


def refuse(virsh: Virsh, machine: FoundMachine) -> None:
    """Raises `Migrating` if that is what is happening to a machine that is on.

    Two round trips to libvirt. The caller holds the turn, which keeps no migration from beginning.
    """
    if machine.id is None:
        return
    try:
        job = _job(virsh, machine.uuid)
    except Refused:
        # It is off by now, or gone; whatever is done next is told so.
        return
    if job in (_OUTGOING, _INCOMING) or is_on_its_way(machine):
        raise Migrating


def is_on_its_way(machine: FoundMachine) -> bool:
    """Whether it comes in from another host, where it still runs, or has just been given up."""
    return (machine.state, machine.reason) == _MIGRATING


def check_stayed(virsh: Virsh, machine: FoundMachine) -> None:
    """Raises `ChangeLost` if a machine that was on has begun to migrate, or has gone.

    It may also have gone off by itself, and be here as before.
    """
    if machine.id is None:
        return
    try:
        lost = _job(virsh, machine.uuid) in (_OUTGOING, _INCOMING)
    except Refused as error:
        if _NOT_RUNNING not in error.words:
            raise ChangeLost from error
        lost = virsh.domstate(machine.uuid) in (_MIGRATED, _DEFINED_ANEW)
    if lost:
        raise ChangeLost


def is_off_here(virsh: Virsh, uuid: str) -> bool:
    """Whether it is off, and does not go on at another host as far as this libvirt remembers."""
    status = virsh.domstate(uuid)
    return status[0] == OFF and status != _MIGRATED


def _job(virsh: Virsh, uuid: str) -> str | None:
    """What libvirt does with a machine that is on, in its own words; None if that is nothing."""
    try:
        return virsh.domjobinfo(uuid).get("Operation")
    except Refused as error:
        if _WITHOUT_JOBS in error.words:
            return None
        if _ON_THE_TARGET in error.words:
            return _INCOMING
        raise
