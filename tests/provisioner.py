"""As much of Mr-Provisioner as powers machines: its models, and two drivers for this tool."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import requests

_DRIVER = Path(__file__).parent.parent / "config/mr_provisioner/libvirt_bmc.py"


class BMCType:
    """What a driver derives from."""


class BMCError(Exception):
    """What a driver raises."""


def driver() -> Any:
    """An instance of the driver in `config/`, imported as Mr-Provisioner would."""
    registered: list[Any] = []
    package, types = ModuleType("mr_provisioner"), ModuleType("mr_provisioner.bmc_types")
    vars(types).update(
        BMCType=BMCType,
        BMCError=BMCError,
        register_bmc_type=lambda klass: registered.append(klass()),
    )
    sys.modules |= {package.__name__: package, types.__name__: types}
    try:
        spec = importlib.util.spec_from_file_location(f"{types.__name__}.libvirt_bmc", _DRIVER)
        assert spec and spec.loader
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    finally:
        del sys.modules[package.__name__], sys.modules[types.__name__]
    (only,) = registered
    return only


class DriverOf2018:
    """The driver that was written for the first version: GETs, and nothing but 200 is a success.

    Its port is 9001; here it is any.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def set_bootdev(self, machine: "Provisioned", bootdev: str) -> None:
        verbs = {"pxe": "pxeboot", "disk": "diskboot", "bios": "defaultboot"}
        self._get(machine, verbs[bootdev])

    def set_power(self, machine: "Provisioned", power_state: str) -> None:
        verbs = {
            "on": "cyclepower",
            "off": "cyclepower",
            "reset": "reboot",
            "cycle": "force_reset",
        }
        self._get(machine, verbs[power_state])

    def get_power(self, machine: "Provisioned") -> str:
        state: str = self._get(machine, "status").json()["state"]
        return state

    def _get(self, machine: "Provisioned", verb: str) -> requests.Response:
        host = f"http://{machine.bmc.ip}:{self._port}"
        url = f"{host}/service/{quote(machine.name)}/state_controller/{verb}"
        answer = requests.get(url)  # noqa: S113
        if answer.status_code != requests.codes.ok:
            raise BMCError(f"{verb}: {answer.status_code}")
        return answer


@dataclass
class Bmc:
    """Where a machine is controlled."""

    type_inst: Any
    ip: str = "127.0.0.1"
    username: str | None = None
    password: str | None = None


@dataclass
class Provisioned:
    """A machine, and what Mr-Provisioner's users can do to it."""

    name: str
    bmc: Bmc
    bmc_info: str = ""
    verbs: dict[str, Callable[[], None]] = field(init=False)

    def __post_init__(self) -> None:
        """Each verb that its pages and its API have."""
        self.verbs = {
            "reboot": self.reboot,
            "pxe_reboot": lambda: self.boot_and("pxe"),
            "disk_reboot": lambda: self.boot_and("disk"),
            "bios_reboot": lambda: self.boot_and("bios"),
        } | {
            state: lambda state=state: self.bmc.type_inst.set_power(self, state)
            for state in ("on", "off", "cycle", "reset", "soft")
        }

    def reboot(self) -> None:
        on = self.bmc.type_inst.get_power(self) == "on"
        self.bmc.type_inst.set_power(self, "reset" if on else "on")

    def boot_and(self, device: str) -> None:
        self.bmc.type_inst.set_bootdev(self, device)
        self.reboot()
