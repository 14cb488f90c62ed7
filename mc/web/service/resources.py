"""The resources under `/service`: machines, their status, and the verbs."""

from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Literal
from urllib.parse import quote

from mc import __version__
from mc.actions.boot import BOOT_VERBS
from mc.actions.power import Outcome
from mc.domain_xml.order import DEVICES, Device
from mc.machine.machines import Machine
from mc.machine.verbs import VERBS
from mc.virsh.quoting import encode
from mc.web.problems import Problem
from mc.web.routing.journal import journal
from mc.web.routing.operation import Operation, Resource, Route, operation
from mc.web.routing.parameters import boolean, one_of, seconds
from mc.web.service import schemas
from mc.web.service.controller import Controller, ServiceResource
from mc.web.service.screen import Screenshot

ALL_VERBS = (*VERBS, *BOOT_VERBS)
LONGEST_WAIT = 600.0
# The parameters that there are.
_WAIT = seconds("wait", "how long to wait until the machine is off", LONGEST_WAIT)
_FORCE = boolean("force", "cut the power when the wait is over")
_GRACE = seconds("grace", "what a running guest gets to power off", LONGEST_WAIT)
# Takes a one-time device back.
_NO_DEVICE: Literal["none"] = "none"
_DEVICE = one_of("device", "what to boot; none takes a one-time device back", *DEVICES, _NO_DEVICE)
_ONCE = boolean("once", "for the next boot only")
_DISCARD_SAVED = boolean("discard_saved", "give up a saved memory image")
_SET_DEFAULTS = {"once": False, "discard_saved": False}
Given = dict[str, float | bool]
# First segments under /service that are no machine.
_RESERVED = ("machine", "machines")


def machine_url(machine: Machine) -> str:
    """The path of a machine: by its name, by its UUID where the name means something else.

    >>> machine_url(Machine(None, "my vm", "6695eb01-f6a4-8304-79aa-97f2502e193f", "shut off"))
    '/service/my%20vm'
    """
    name = machine.uuid if machine.name in _RESERVED else machine.name
    return "/service/" + quote(encode(name), safe="")


class Index(ServiceResource):
    """What there is to call."""

    @operation("What there is to call", answer=schemas.INDEX)
    def GET(self) -> object:
        return {
            "name": "libvirt_http_mc",
            "version": __version__,
            "libvirt": self._controller.uri,
            "machines": "/service/machines",
            "machine": "/service/{machine}",
            "status": "/service/{machine}/state_controller/status",
            "boot": "/service/{machine}/boot",
            "screenshot": "/service/{machine}/screenshot",
            "verbs": "/service/{machine}/state_controller",
            "events": "/events",
            "openapi": "/openapi.json",
            "grace_seconds": self._controller.grace_seconds,
        }

    HEAD = GET


class MachineList(ServiceResource):
    """Every machine, by name."""

    @operation("All machines, by name", answer=schemas.MACHINES, errors=schemas.LIBVIRT_ERRORS)
    def GET(self) -> object:
        return [self._controller.describe(one) for one in self._controller.machines.list_all()]

    HEAD = GET


class OneMachine(ServiceResource):
    """One machine."""

    @operation("One machine", answer=schemas.MACHINE, errors=schemas.MACHINE_ERRORS)
    def GET(self, machine: str) -> object:
        return self._controller.describe(self._controller.machines.find(machine))

    HEAD = GET


class MachineStatus(ServiceResource):
    """The state of one machine and the reason for it."""

    @operation(
        "The state of one machine and the reason for it",
        answer=schemas.STATUS,
        errors=schemas.MACHINE_ERRORS,
    )
    def GET(self, machine: str) -> object:
        status = self._controller.machines.status(machine)
        return {**self._controller.state(status), "reason": status.reason}

    HEAD = GET


class StateController(ServiceResource):
    """The verbs and their URLs."""

    @operation(
        "The verbs and their URLs",
        answer=schemas.STATE_CONTROLLER,
        errors=schemas.MACHINE_ERRORS,
    )
    def GET(self, machine: str) -> object:
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

    @operation("What a machine boots", answer=schemas.BOOT, errors=schemas.MACHINE_ERRORS)
    def GET(self, machine: str) -> object:
        found = self._controller.machines.find(machine)
        return asdict(self._controller.boot.status(found))

    HEAD = GET

    @operation(
        "Set what a machine boots; powers nothing",
        answer=schemas.BOOT_SET,
        parameters=(_DEVICE, _ONCE, _DISCARD_SAVED),
        acts=True,
        errors=schemas.ACTION_ERRORS,
    )
    def PUT(self, machine: str, device: Device | Literal["none"], **how: bool) -> object:
        controller = self._controller
        how = _SET_DEFAULTS | how
        used = {"device": device, **how}
        with journal("boot", machine, controller.metrics, used) as entry, controller.places.place():
            asked = None if device == _NO_DEVICE else device
            found, done = controller.boot_verbs.set(machine, asked, **how)
            entry.finish(found, now=device, done=done)
        return {
            "machine": found.name,
            "uuid": found.uuid,
            "changed": bool(done),
            **asdict(controller.boot.status(found)),
        }


class Action(ServiceResource):
    """A verb, which GET and POST do alike. There is no HEAD, so that HEAD never acts."""

    def __init__(
        self,
        controller: Controller,
        verb: str,
        operation: Operation,
        perform: Callable[..., Outcome],
        defaults: Callable[[Given], Given],
        **fixed: str,
    ) -> None:
        """`defaults` are of the parameters, by those that are given; `fixed` is the verb's own."""
        super().__init__(controller)
        self._verb = verb
        self._operation = operation
        self._perform = perform
        self._defaults = defaults
        self._fixed = fixed

    def operation(self, method: str) -> Operation:
        return self._operation

    def GET(self, machine: str, **given: float | bool) -> object:
        metrics, places = self._controller.metrics, self._controller.places
        given = self._defaults(given) | given
        used = {**self._fixed, **given}
        with journal(self._verb, machine, metrics, used) as entry, places.place():
            outcome = self._perform(self._verb, machine, **given)
            entry.finish(outcome.machine, now=outcome.status.state, done=outcome.done)
        return {
            "machine": outcome.machine.name,
            "uuid": outcome.machine.uuid,
            "action": self._verb,
            "changed": outcome.changed,
            **self._controller.state(outcome.status),
            "reason": outcome.status.reason,
        }

    POST = GET


class UnknownVerb(Resource):
    """Tells those who mistype a verb which ones there are."""

    documented = False

    @operation("Always 404: there is no such verb", answer={})
    def GET(self, machine: str, verb: str) -> object:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"there is no verb {verb!r}; there are {', '.join(ALL_VERBS)}",
            {"verbs": list(ALL_VERBS)},
        )

    POST = GET


def _power_action(controller: Controller, verb: str) -> Action:
    def perform(verb: str, machine: str, **given: float | bool) -> Outcome:
        return controller.power.perform(verb, machine, **given)  # type: ignore[arg-type]

    def defaults(given: Given) -> Given:
        if not VERBS[verb].waits:
            return {}
        return {"wait": controller.grace_seconds if given.get("force") else 0.0, "force": False}

    parameters = (_WAIT, _FORCE) if VERBS[verb].waits else ()
    declared = Operation(
        VERBS[verb].summary, schemas.OUTCOME, parameters, acts=True, errors=schemas.ACTION_ERRORS
    )
    return Action(controller, verb, declared, perform, defaults)


def _boot_action(controller: Controller, verb: str) -> Action:
    def perform(verb: str, machine: str, **given: float | bool) -> Outcome:
        return controller.boot_verbs.perform(verb, machine, **given)  # type: ignore[arg-type]

    def defaults(given: Given) -> Given:
        return {"once": False, "grace": controller.grace_seconds, "discard_saved": False}

    declared = Operation(
        f"Boot from {BOOT_VERBS[verb]}, whatever state the machine is in",
        schemas.OUTCOME,
        (_ONCE, _GRACE, _DISCARD_SAVED),
        acts=True,
        errors=schemas.ACTION_ERRORS,
    )
    return Action(controller, verb, declared, perform, defaults, device=BOOT_VERBS[verb])


def service_routes(controller: Controller) -> list[Route]:
    """What is under `/service`.

    `machine` and `machines` come before the machines of these names.
    """
    machine = "/service/{machine}"
    verbs = {verb: _power_action(controller, verb) for verb in VERBS}
    verbs |= {verb: _boot_action(controller, verb) for verb in BOOT_VERBS}
    return [
        Route("/service", Index(controller)),
        Route("/service/machine", MachineList(controller)),
        Route("/service/machines", MachineList(controller)),
        Route(machine, OneMachine(controller)),
        Route(machine + "/boot", Boot(controller)),
        Route(machine + "/screenshot", Screenshot(controller)),
        # The hard reset at the address that the first README gave it.
        Route(machine + "/force_reset", verbs["force_reset"]),
        Route(machine + "/state_controller", StateController(controller)),
        Route(machine + "/state_controller/status", MachineStatus(controller)),
        *(Route(f"{machine}/state_controller/{verb}", verbs[verb]) for verb in verbs),
        Route(machine + "/state_controller/{verb}", UnknownVerb()),
    ]
