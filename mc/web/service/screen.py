"""The resource that shows a machine's screen."""

from mc.errors import NoPicture
from mc.hosts.host import Host
from mc.machine.picture import png
from mc.web.routing.operation import Content, operation
from mc.web.service import schemas
from mc.web.service.controller import ServiceResource


class Screenshot(ServiceResource):
    """What is on a machine's first screen now."""

    @operation(
        "A picture of the machine's screen",
        answer={},
        errors=schemas.MACHINE_ERRORS,
        media_type="image/png",
    )
    def GET(self, machine: str, host: str | None = None) -> Content:
        with self._controller.pictures.place():
            image = self._controller.hosts.at(machine, host, lambda at: _image(at, machine))
            return Content("image/png", png(image))

    HEAD = GET


def _image(at: Host, machine: str) -> bytes:
    found = at.machines.find(machine)
    # The embedded hypervisor would show a picture all the same.
    if found.id is None:
        raise NoPicture("the machine is off")
    return at.virsh.screenshot(found.uuid)
