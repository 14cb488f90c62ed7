"""What monitoring asks for: `/healthz` and `/metrics`."""

from http import HTTPStatus

from mc import __version__
from mc.monitoring.metrics import MEDIA_TYPE
from mc.web.problems import Problem
from mc.web.routing.operation import Content, operation
from mc.web.service import schemas
from mc.web.service.controller import ServiceResource


class HealthCheck(ServiceResource):
    """Whether the controller can do its work: URI, folder and reasons are not for everybody.

    A backup folder that cannot be written is told, but is no failure: only boot orders cannot be
    set meanwhile, and neither a restart nor another controller would mend it.
    """

    public = True

    @operation(
        "Whether libvirt can be reached, and backups be written; needs no user",
        answer=schemas.HEALTH,
        errors=(*schemas.HOST_ERRORS, HTTPStatus.SERVICE_UNAVAILABLE),
    )
    def GET(self, host: str | None = None) -> object:
        report = self._controller.health_of(host).report()
        members: dict[str, object] = {
            "version": __version__,
            "libvirt": "reachable" if report.libvirt else "unreachable",
            "backups": report.backups,
        }
        if not report.libvirt:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "libvirt does not answer",
                members,
                {"Retry-After": "1"},
            )
        return {"status": "ok", **members}

    HEAD = GET


class MetricsPage(ServiceResource):
    """Metrics, also while libvirt is away."""

    @operation(
        "Metrics for Prometheus",
        answer={"type": "string"},
        errors=schemas.HOST_ERRORS,
        media_type=MEDIA_TYPE,
    )
    def GET(self, host: str | None = None) -> object:
        if host is not None:
            self._controller.hosts.named(host)
        return Content(MEDIA_TYPE, self._controller.metrics.text(host))

    HEAD = GET
