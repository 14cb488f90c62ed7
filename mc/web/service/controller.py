"""What the resources work with."""

from collections.abc import Mapping
from dataclasses import dataclass

from mc.errors import NoSuchHost
from mc.hosts.directory import Hosts
from mc.hosts.host import Host
from mc.hosts.shares import Shares
from mc.machine.machines import Machine, Status
from mc.machine.turns import Places
from mc.monitoring.health import Health
from mc.monitoring.metrics import Metrics
from mc.web.routing.operation import Resource
from mc.web.urls import machine_url


@dataclass(frozen=True)
class Controller:
    """What the resources work with. `grace_seconds` is what a guest gets to power off.

    places: for actions; streams: for streams of events; pictures: for pictures of screens. health:
    by the host's name, that of all under None.
    """

    hosts: Hosts
    places: Shares
    streams: Places
    pictures: Places
    health: Mapping[str | None, Health]
    metrics: Metrics
    state_words: str
    grace_seconds: float

    def health_of(self, host: str | None) -> Health:
        """Raises `NoSuchHost`."""
        try:
            return self.health[host]
        except KeyError:
            raise NoSuchHost(host or "") from None

    def state(self, thing: Machine | Status) -> dict[str, object]:
        """The members that tell a state, in libvirt's words or as `on` and `off`."""
        state = thing.state if self.state_words == "libvirt" else thing.power
        return {"state": state, "power": thing.power}

    def describe(self, host: Host, machine: Machine) -> dict[str, object]:
        return {
            "host": host.name,
            "id": machine.id,
            "name": machine.name,
            "uuid": machine.uuid,
            **self.state(machine),
        }

    def machine_url(self, host: Host, machine: Machine) -> str:
        """The path of a machine, at which there is no other."""
        return machine_url(machine.name, machine.uuid, host.name if self.hosts.many else None)


class ServiceResource(Resource):
    """A resource; what its methods are given as `host` is None where the URL names none."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
