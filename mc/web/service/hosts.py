"""The resources under `/hosts`: the hosts, and how they are."""

from mc.hosts.host import Host
from mc.web.routing.operation import Route, operation
from mc.web.service import schemas
from mc.web.service.controller import Controller, ServiceResource
from mc.web.times import utc
from mc.web.urls import host_url

HOST = host_url("{host}")
"""The template of a host's path."""


def told(controller: Controller, host: Host) -> dict[str, object]:
    """What there is to tell of a host; not its URI, which is nobody's business."""
    link = host.link.now
    return {
        "name": host.name,
        "state": link.state,
        "since": utc(link.since),
        "machines": controller.hosts.count(host),
        **({"detail": link.words} if link.words else {}),
        "url": host_url(host.name),
    }


class HostList(ServiceResource):
    """Every host, by name."""

    @operation("All hosts, by name", answer=schemas.HOSTS)
    def GET(self) -> object:
        return [told(self._controller, host) for host in self._controller.hosts.all]

    HEAD = GET


class OneHost(ServiceResource):
    """One host."""

    @operation("One host", answer=schemas.HOST, errors=schemas.HOST_ERRORS)
    def GET(self, host: str) -> object:
        return told(self._controller, self._controller.hosts.named(host))

    HEAD = GET


def host_routes(controller: Controller) -> list[Route]:
    """What is told of hosts themselves."""
    return [Route("/hosts", HostList(controller)), Route(HOST, OneHost(controller))]
