"""What monitoring asks for: `/healthz` and `/metrics`."""

from http import HTTPStatus

from mc import __version__
from mc.metrics import MEDIA_TYPE
from mc.web import schemas
from mc.web.controller import ServiceResource
from mc.web.operation import Content, operation
from mc.web.problems import Problem


class HealthCheck(ServiceResource):
    """Whether the controller can do its work: libvirt's URI and words are not for everybody."""

    public = True

    @operation(
        "Whether libvirt can be reached; needs no user",
        answer=schemas.HEALTH,
        errors=(HTTPStatus.SERVICE_UNAVAILABLE,),
    )
    def GET(self) -> object:
        if not self._controller.health.reachable():
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "libvirt does not answer",
                {"version": __version__, "libvirt": "unreachable"},
                {"Retry-After": "1"},
            )
        return {"status": "ok", "version": __version__, "libvirt": "reachable"}

    HEAD = GET


class MetricsPage(ServiceResource):
    """Metrics, also while libvirt is away."""

    @operation("Metrics for Prometheus", answer={"type": "string"}, media_type=MEDIA_TYPE)
    def GET(self) -> object:
        return Content(MEDIA_TYPE, self._controller.metrics.text())

    HEAD = GET
