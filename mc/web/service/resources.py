"""The resources under `/service`: machines, their status, and the verbs."""

from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from operator import attrgetter, itemgetter
from typing import Literal

import cherrypy

from mc import __version__
from mc.actions.boot import BOOT_VERBS
from mc.actions.power import Outcome
from mc.domain_xml.order import DEVICES, Device
from mc.errors import Away
from mc.hosts.host import Host
from mc.machine.verbs import VERBS
from mc.web.problems import Problem
from mc.web.routing.journal import journal
from mc.web.routing.operation import Operation, Resource, Route, operation
from mc.web.routing.parameters import boolean, one_of, seconds
from mc.web.service import schemas
from mc.web.service.controller import Controller, ServiceResource
from mc.web.service.screen import Screenshot
from mc.web.urls import host_url

ALL_VERBS = (*VERBS, *BOOT_VERBS)
LONGEST_WAIT = 600.0
# The parameters that there are.
_WAIT = seconds("wait", "how long to wait until the machine is off", LONGEST_WAIT)
_FORCE = boolean("force", "cut the power when the wait is over")
_GRACE = seconds("grace", "what a running guest gets to power off", LONGEST_WAIT)
# Whether a list that lacks a host is an error.
_COMPLETE = boolean("complete", "503 unless all hosts have answered")
# Takes a one-time device back.
_NO_DEVICE: Literal["none"] = "none"
_DEVICE = one_of("device", "what to boot; none takes a one-time device back", *DEVICES, _NO_DEVICE)
_ONCE = boolean("once", "for the next boot only")
_DISCARD_SAVED = boolean("discard_saved", "give up a saved memory image")
_SET_DEFAULTS = {"once": False, "discard_saved": False}
Given = dict[str, float | bool]


class Index(ServiceResource):
    """What there is to call."""

    @operation("What there is to call", answer=schemas.INDEX, errors=schemas.HOST_ERRORS)
    def GET(self, host: str | None = None) -> object:
        hosts = self._controller.hosts
        base = "" if host is None else host_url(hosts.named(host).name)
        return {
            "name": "libvirt_http_mc",
            "version": __version__,
            # Where there are several, their URIs are nobody's business.
            **({} if hosts.many else {"libvirt": hosts.all[0].uri}),
            "hosts": "/hosts",
            "machines": f"{base}/service/machines",
            "machine": base + "/service/{machine}",
            "status": base + "/service/{machine}/state_controller/status",
            "boot": base + "/service/{machine}/boot",
            "screenshot": base + "/service/{machine}/screenshot",
            "verbs": base + "/service/{machine}/state_controller",
            "events": f"{base}/events",
            "openapi": "/openapi.json",
            "grace_seconds": self._controller.grace_seconds,
        }

    HEAD = GET


class MachineList(ServiceResource):
    """Every machine, by name."""

    @operation(
        "All machines, by name; `Incomplete` names the hosts that did not answer",
        answer=schemas.MACHINES,
        parameters=(_COMPLETE,),
        errors=schemas.LIST_ERRORS,
    )
    def GET(self, host: str | None = None, *, complete: bool = False) -> object:
        controller = self._controller
        lists = controller.hosts.lists(host)
        missing = sorted(lists.errors)
        if len(missing) == 1 and not lists.machines:
            raise lists.errors[missing[0]]
        if missing and (complete or not lists.machines):
            raise Away("not all machines can be told", missing)
        if missing:
            cherrypy.serving.response.headers["Incomplete"] = ", ".join(missing)
        found = [
            (one.name, at.name, controller.describe(at, one))
            for at in controller.hosts.of(host)
            for one in lists.machines.get(at.name, ())
        ]
        found.sort(key=itemgetter(0, 1))
        return [told for _, _, told in found]

    HEAD = GET


class OneMachine(ServiceResource):
    """One machine."""

    @operation("One machine", answer=schemas.MACHINE, errors=schemas.MACHINE_ERRORS)
    def GET(self, machine: str, host: str | None = None) -> object:
        controller = self._controller
        return controller.hosts.at(
            machine, host, lambda at: controller.describe(at, at.machines.find(machine))
        )

    HEAD = GET


class MachineStatus(ServiceResource):
    """The state of one machine and the reason for it."""

    @operation(
        "The state of one machine and the reason for it",
        answer=schemas.STATUS,
        errors=schemas.MACHINE_ERRORS,
    )
    def GET(self, machine: str, host: str | None = None) -> object:
        status = self._controller.hosts.at(machine, host, lambda at: at.machines.status(machine))
        return {**self._controller.state(status), "reason": status.reason}

    HEAD = GET


class StateController(ServiceResource):
    """The verbs and their URLs."""

    @operation(
        "The verbs and their URLs",
        answer=schemas.STATE_CONTROLLER,
        errors=schemas.MACHINE_ERRORS,
    )
    def GET(self, machine: str, host: str | None = None) -> object:
        hosts = self._controller.hosts
        at, found = hosts.at(machine, host, lambda at: (at, at.machines.find(machine)))
        base = self._controller.machine_url(at, found) + "/state_controller/"
        return {
            "host": at.name,
            "machine": found.name,
            "uuid": found.uuid,
            "status": base + "status",
            "verbs": {name: base + name for name in ALL_VERBS},
        }

    HEAD = GET


class Boot(ServiceResource):
    """What a machine boots: GET tells it, PUT sets it and powers nothing."""

    @operation("What a machine boots", answer=schemas.BOOT, errors=schemas.MACHINE_ERRORS)
    def GET(self, machine: str, host: str | None = None) -> object:
        return self._controller.hosts.at(
            machine, host, lambda at: asdict(at.boot.status(at.machines.find(machine)))
        )

    HEAD = GET

    @operation(
        "Set what a machine boots; powers nothing",
        answer=schemas.BOOT_SET,
        parameters=(_DEVICE, _ONCE, _DISCARD_SAVED),
        acts=True,
        errors=schemas.ACTION_ERRORS,
    )
    def PUT(
        self,
        machine: str,
        device: Device | Literal["none"],
        host: str | None = None,
        **how: bool,
    ) -> object:
        controller = self._controller
        how = _SET_DEFAULTS | how
        asked = None if device == _NO_DEVICE else device

        def do(at: Host) -> dict[str, object]:
            entry.host = at.name
            with controller.places.of(at):
                found, done = at.boot_verbs.set(machine, asked, **how)
                entry.finish(found, now=device, done=done)
                at.acted_on(found)
            return {
                "host": at.name,
                "machine": found.name,
                "uuid": found.uuid,
                "changed": bool(done),
                **asdict(at.boot.status(found)),
            }

        with journal("boot", machine, controller.metrics, {"device": device, **how}) as entry:
            return controller.hosts.at(machine, host, do)


class Action(ServiceResource):
    """A verb, which GET and POST do alike. There is no HEAD, so that HEAD never acts."""

    def __init__(
        self,
        controller: Controller,
        verb: str,
        operation: Operation,
        perform: Callable[[Host], Callable[..., Outcome]],
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

    def GET(self, machine: str, host: str | None = None, **given: float | bool) -> object:
        controller = self._controller
        given = self._defaults(given) | given

        def do(at: Host) -> dict[str, object]:
            entry.host = at.name
            with controller.places.of(at):
                outcome = self._perform(at)(self._verb, machine, **given)
                entry.finish(outcome.machine, now=outcome.status.state, done=outcome.done)
                at.acted_on(outcome.machine)
            return {
                "host": at.name,
                "machine": outcome.machine.name,
                "uuid": outcome.machine.uuid,
                "action": self._verb,
                "changed": outcome.changed,
                **controller.state(outcome.status),
                "reason": outcome.status.reason,
            }

        used = {**self._fixed, **given}
        with journal(self._verb, machine, controller.metrics, used) as entry:
            return controller.hosts.at(machine, host, do)

    POST = GET


class UnknownVerb(Resource):
    """Tells those who mistype a verb which ones there are."""

    documented = False

    @operation("Always 404: there is no such verb", answer={})
    def GET(self, machine: str, verb: str, host: str | None = None) -> object:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"there is no verb {verb!r}; there are {', '.join(ALL_VERBS)}",
            {"verbs": list(ALL_VERBS)},
        )

    POST = GET


def _power_action(controller: Controller, verb: str) -> Action:
    def defaults(given: Given) -> Given:
        if not VERBS[verb].waits:
            return {}
        return {"wait": controller.grace_seconds if given.get("force") else 0.0, "force": False}

    parameters = (_WAIT, _FORCE) if VERBS[verb].waits else ()
    declared = Operation(
        VERBS[verb].summary, schemas.OUTCOME, parameters, acts=True, errors=schemas.ACTION_ERRORS
    )
    return Action(controller, verb, declared, attrgetter("power.perform"), defaults)


def _boot_action(controller: Controller, verb: str) -> Action:
    def defaults(given: Given) -> Given:
        return {"once": False, "grace": controller.grace_seconds, "discard_saved": False}

    declared = Operation(
        f"Boot from {BOOT_VERBS[verb]}, whatever state the machine is in",
        schemas.OUTCOME,
        (_ONCE, _GRACE, _DISCARD_SAVED),
        acts=True,
        errors=schemas.ACTION_ERRORS,
    )
    perform = attrgetter("boot_verbs.perform")
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
