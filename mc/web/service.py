"""The resources under `/service`: machines, their status, and the verbs."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

from mc import __version__
from mc.boot.control import BootControl
from mc.boot.order import DEVICES
from mc.boot.verbs import BOOT_VERBS, BootVerbs
from mc.machines import Machine, Machines, Status
from mc.power import Outcome, Power
from mc.turns import Places
from mc.verbs import VERBS
from mc.virsh.quoting import encode
from mc.web.dispatch import Resource, Route
from mc.web.journal import journal
from mc.web.parameters import Reader, boolean, one_of, parameters, seconds
from mc.web.problems import Problem

ALL_VERBS = (*VERBS, *BOOT_VERBS)
LONGEST_WAIT = 600.0
# The parameters that there are, and how each is read.
_POWERING_OFF: dict[str, Reader] = {"wait": seconds(LONGEST_WAIT), "force": boolean}
_BOOTING: dict[str, Reader] = {
    "once": boolean,
    "grace": seconds(LONGEST_WAIT),
    "discard_saved": boolean,
}
_BOOT_SETTING: dict[str, Reader] = {
    "device": one_of(*DEVICES),
    "once": boolean,
    "discard_saved": boolean,
}
# First segments under /service that are no machine.
_RESERVED = ("machine", "machines")


@dataclass(frozen=True)
class Controller:
    """What the resources work with. `grace_seconds` is what a guest gets to power off."""

    uri: str
    machines: Machines
    power: Power
    boot: BootControl
    boot_verbs: BootVerbs
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
            "boot": "/service/{machine}/boot",
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
            "verbs": {name: base + name for name in ALL_VERBS},
        }

    HEAD = GET


class Boot(ServiceResource):
    """What a machine boots: GET tells it, PUT sets it and powers nothing."""

    def GET(self, machine: str) -> object:
        parameters({})
        found = self._controller.machines.find(machine)
        return asdict(self._controller.boot.status(found))

    HEAD = GET

    def PUT(self, machine: str) -> object:
        controller = self._controller
        given = parameters(_BOOT_SETTING)
        if "device" not in given:
            raise Problem(HTTPStatus.BAD_REQUEST, "a device is needed", {"parameter": "device"})
        with journal("boot", machine) as entry, controller.places.place():
            found, changed = controller.boot_verbs.set(machine, **given)
            entry.finish(found, changed=changed, now=given["device"])
        return {
            "machine": found.name,
            "uuid": found.uuid,
            "changed": changed,
            **asdict(controller.boot.status(found)),
        }


class Action(ServiceResource):
    """A verb, which GET and POST do alike. There is no HEAD, so that HEAD never acts."""

    def GET(self, machine: str, verb: str) -> object:
        perform = self._prepared(verb)
        with journal(verb, machine) as entry, self._controller.places.place():
            outcome = perform(machine)
            entry.finish(outcome.machine, changed=outcome.changed, now=outcome.status.state)
        return {
            "machine": outcome.machine.name,
            "uuid": outcome.machine.uuid,
            "action": verb,
            "changed": outcome.changed,
            **self._controller.state(outcome.status),
            "reason": outcome.status.reason,
        }

    POST = GET

    def _prepared(self, verb: str) -> Callable[[str], Outcome]:
        """What does the verb to a machine, with the parameters of the request."""
        controller = self._controller
        if verb in BOOT_VERBS:
            given = {"grace": controller.grace_seconds} | parameters(_BOOTING)
            return partial(controller.boot_verbs.perform, verb, **given)
        if verb in VERBS:
            given = parameters(_POWERING_OFF if VERBS[verb].waits else {})
            if given.get("force"):
                given.setdefault("wait", controller.grace_seconds)
            return partial(controller.power.perform, verb, **given)
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"there is no verb {verb!r}; there are {', '.join(ALL_VERBS)}",
            {"verbs": list(ALL_VERBS)},
        )


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
        Route(machine + "/boot", Boot(controller)),
        Route(machine + "/force_reset", Shortcut(controller)),
        Route(machine + "/state_controller", StateController(controller)),
        Route(machine + "/state_controller/status", MachineStatus(controller)),
        Route(machine + "/state_controller/{verb}", Action(controller)),
    ]
