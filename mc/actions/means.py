"""What a host's machines are acted on with."""

from dataclasses import dataclass

from mc.boot.control import BootControl
from mc.boot.starts import Starts
from mc.machine.machines import Machines
from mc.machine.supply import Supply
from mc.machine.turns import MachineTurns
from mc.virsh import Virsh


@dataclass(frozen=True)
class Means:
    """All of one host, and of no other."""

    virsh: Virsh
    machines: Machines
    turns: MachineTurns
    supply: Supply
    starts: Starts
    boot: BootControl
