"""What the resources work with."""

from dataclasses import dataclass

from mc.actions.boot import BootVerbs
from mc.actions.power import Power
from mc.boot.control import BootControl
from mc.hosts.watch import Watch
from mc.machine.machines import Machine, Machines, Status
from mc.machine.turns import Places
from mc.monitoring.health import Health
from mc.monitoring.metrics import Metrics
from mc.virsh import Virsh
from mc.web.routing.operation import Resource


@dataclass(frozen=True)
class Controller:
    """What the resources work with. `grace_seconds` is what a guest gets to power off.

    places: for actions; streams: for streams of events; pictures: for pictures of screens.
    """

    uri: str
    virsh: Virsh
    machines: Machines
    power: Power
    boot: BootControl
    boot_verbs: BootVerbs
    watch: Watch
    places: Places
    streams: Places
    pictures: Places
    health: Health
    metrics: Metrics
    state_words: str
    grace_seconds: float

    def state(self, thing: Machine | Status) -> dict[str, object]:
        """The members that tell a state, in libvirt's words or as `on` and `off`."""
        state = thing.state if self.state_words == "libvirt" else thing.power
        return {"state": state, "power": thing.power}

    def describe(self, machine: Machine) -> dict[str, object]:
        return {
            "id": machine.id,
            "name": machine.name,
            "uuid": machine.uuid,
            **self.state(machine),
        }


class ServiceResource(Resource):
    def __init__(self, controller: Controller) -> None:
        self._controller = controller
