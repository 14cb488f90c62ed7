"""Every URL that there is."""

from mc.web.controller import Controller
from mc.web.events import Events
from mc.web.monitoring import HealthCheck, MetricsPage
from mc.web.operation import Route
from mc.web.service import service_routes


def routes(controller: Controller) -> list[Route]:
    """Where two match, the first one counts."""
    return [
        *service_routes(controller),
        Route("/events", Events(controller)),
        Route("/healthz", HealthCheck(controller)),
        Route("/metrics", MetricsPage(controller)),
    ]
