"""Machines for libvirt's embedded test hypervisor, `test:///FILE`, and virsh for any."""

from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import UUID
from xml.sax.saxutils import escape

from mc.virsh import Gate, Layout, Virsh, for_the_only_host

FOR_THE_ONLY_HOST = for_the_only_host(4, 2, 8)
"""The daemon's default numbers of sessions."""

STATES = {
    "running": 1,
    "idle": 2,
    "paused": 3,
    "in shutdown": 4,
    "shut off": 5,
    "crashed": 6,
    "pmsuspended": 7,
}

DEVICES = (
    "<devices><disk device='disk'><source file='/disk.img'/><target dev='vda' bus='virtio'/></disk>"
    "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/>"
    "</interface></devices>"
)
"""A disk and a network card, for machines that are to boot by one of them."""


def uuid_of(number: int) -> str:
    """The UUID of the machine that is the `number`th in its file, from 0."""
    return str(UUID(int=(0x6D63 << 112) + number))


def hypervisor(file: Path, machines: Iterable[tuple[str, str]], devices: str = "") -> str:
    """Write machines, each a name and a state, into a file; the URI of a hypervisor with them."""
    domains = "".join(
        f"<domain type='test'><name>{escape(name)}</name><uuid>{uuid_of(number)}</uuid>"
        f"<memory unit='MiB'>8</memory><os><type>hvm</type></os>{devices}"
        "<runstate xmlns='http://libvirt.org/schemas/domain/test/1.0'>"
        f"{STATES[state]}</runstate></domain>"
        for number, (name, state) in enumerate(machines)
    )
    file.write_text(f"<node>{domains}</node>", "utf-8")
    return f"test://{file}"


def number_of(virsh: Virsh, machine: str) -> int:
    """libvirt's number of the run of a machine, which is on."""
    return int(virsh.dominfo(machine)["Id"])


def open_virsh(
    uri: str,
    *,
    mode: str = "",
    read: float = 30,
    act: float = 30,
    connect: float = 30,
    sessions: Layout = FOR_THE_ONLY_HOST,
    gate: Gate | None = None,
    on_command: Callable[[str, float], None] = lambda command, seconds: None,
) -> Virsh:
    """The daemon's way to libvirt, and patient."""
    return Virsh(
        "virsh",
        uri,
        sessions=sessions,
        read_seconds=read,
        action_seconds=act,
        connect_seconds=connect,
        shutdown_mode=mode,
        gate=gate,
        on_command=on_command,
    )
