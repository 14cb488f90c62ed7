"""Every URL that there is."""

from collections.abc import Sequence

from mc.web.routing.operation import Route
from mc.web.service.controller import Controller
from mc.web.service.events import Events
from mc.web.service.hosts import HOST, host_routes
from mc.web.service.monitoring import HealthCheck, MetricsPage
from mc.web.service.openapi import with_document
from mc.web.service.pages import page_routes
from mc.web.service.resources import service_routes


def routes(controller: Controller, authentication: Sequence[str] = ()) -> list[Route]:
    """Where two match, the first one counts. What is at the top is below each host as well.

    `authentication` are the HTTP schemes by which a user is known, if one is needed.
    """
    each = [
        *service_routes(controller),
        Route("/events", Events(controller)),
        Route("/healthz", HealthCheck(controller)),
        Route("/metrics", MetricsPage(controller)),
    ]
    below = [Route(HOST + route.template, route.resource) for route in each]
    return with_document(
        [*page_routes(controller), *each, *host_routes(controller), *below], authentication
    )
