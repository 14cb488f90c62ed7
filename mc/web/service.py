"""The resources under `/service`: machines, their status, and the verbs."""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from mc import __version__
from mc.machines import Machine, Machines, Status
from mc.power import Power
from mc.turns import Places
from mc.verbs import VERBS
from mc.virsh.quoting import encode
from mc.web.dispatch import Resource, Route
from mc.web.journal import journal
from mc.web.parameters import boolean, parameters, seconds
from mc.web.problems import Problem

LONGEST_WAIT = 600.0
# First segments under /service that are no machine.
_RESERVED = ("machine", "machines")


@dataclass(frozen=True)
class Controller:
    """What the resources work with. `grace_seconds` is what a guest gets to power off."""

    uri: str
    machines: Machines
    power: Power
    places: Places
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


def machine_url(machine: Machine) -> str:
    """The path of a machine: by its name, by its UUID where the name means something else.

    >>> machine_url(Machine(None, "my vm", "6695eb01-f6a4-8304-79aa-97f2502e193f", "shut off"))
    '/service/my%20vm'
    """
    name = machine.uuid if machine.name in _RESERVED else machine.name
    return "/service/" + quote(encode(name), safe="")


class ServiceResource(Resource):
    def __init__(self, controller: Controller) -> None:
        self._controller = controller


class Index(ServiceResource):
    """What there is to call."""

    def GET(self) -> object:
        parameters({})
        return {
            "name": "libvirt_http_mc",
            "version": __version__,
            "libvirt": self._controller.uri,
            "machines": "/service/machines",
            "machine": "/service/{machine}",
            "status": "/service/{machine}/state_controller/status",
            "verbs": "/service/{machine}/state_controller",
        }

    HEAD = GET


class MachineList(ServiceResource):
    """Every machine, by name."""

    def GET(self) -> object:
        parameters({})
        return [self._controller.describe(one) for one in self._controller.machines.list_all()]

    HEAD = GET


class OneMachine(ServiceResource):
    """One machine."""

    def GET(self, machine: str) -> object:
        parameters({})
        return self._controller.describe(self._controller.machines.find(machine))

    HEAD = GET


class MachineStatus(ServiceResource):
    """The state of one machine and the reason for it."""

    def GET(self, machine: str) -> object:
        parameters({})
        status = self._controller.machines.status(machine)
        return {**self._controller.state(status), "reason": status.reason}

    HEAD = GET


class StateController(ServiceResource):
    """The verbs and their URLs."""

    def GET(self, machine: str) -> object:
        parameters({})
        found = self._controller.machines.find(machine)
        base = machine_url(found) + "/state_controller/"
        return {
            "machine": found.name,
            "uuid": found.uuid,
            "status": base + "status",
            "verbs": {name: base + name for name in VERBS},
        }

    HEAD = GET


class Action(ServiceResource):
    """A verb, which GET and POST do alike. There is no HEAD, so that HEAD never acts."""

    def GET(self, machine: str, verb: str) -> object:
        if verb not in VERBS:
            verbs = ", ".join(VERBS)
            raise Problem(
                HTTPStatus.NOT_FOUND,
                f"there is no verb {verb!r}; there are {verbs}",
                {"verbs": list(VERBS)},
            )
        given = parameters(
            {"wait": seconds(LONGEST_WAIT), "force": boolean} if VERBS[verb].waits else {}
        )
        if given.get("force"):
            given.setdefault("wait", self._controller.grace_seconds)
        with journal(verb, machine) as entry, self._controller.places.place():
            outcome = self._controller.power.perform(verb, machine, **given)
            entry.finish(outcome)
        return {
            "machine": outcome.machine.name,
            "uuid": outcome.machine.uuid,
            "action": verb,
            "changed": outcome.changed,
            **self._controller.state(outcome.status),
            "reason": outcome.status.reason,
        }

    POST = GET


class Shortcut(Action):
    """The hard reset at the address that the first README gave it."""

    def GET(self, machine: str, verb: str = "force_reset") -> object:
        return super().GET(machine, verb)

    POST = GET


def routes(controller: Controller) -> list[Route]:
    """Every URL there is. `machine` and `machines` come before the machines of these names."""
    machine = "/service/{machine}"
    return [
        Route("/", Index(controller)),
        Route("/service", Index(controller)),
        Route("/service/machine", MachineList(controller)),
        Route("/service/machines", MachineList(controller)),
        Route(machine, OneMachine(controller)),
        Route(machine + "/force_reset", Shortcut(controller)),
        Route(machine + "/state_controller", StateController(controller)),
        Route(machine + "/state_controller/status", MachineStatus(controller)),
        Route(machine + "/state_controller/{verb}", Action(controller)),
    ]
