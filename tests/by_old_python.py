"""The driver for Mr-Provisioner where that runs: a program for old Pythons, without packages.

    python3.6 by_old_python.py DRIVER PORT MACHINE

It has as much of `requests` and of Mr-Provisioner as the driver needs, drives one machine of the
controller at that port of the loopback, and prints what came of each step, as JSON.
"""

import http.client
import importlib.util
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, List
from urllib.parse import urlsplit


class Answer:
    """As `requests.Response`."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status_code = answer.status
        self.reason = answer.reason
        self._body = answer.read().decode("utf-8")

    def json(self) -> Any:
        return json.loads(self._body)


def ask(method: str, url: str, **options: Any) -> Answer:
    """As `requests.request`."""
    parts = urlsplit(url)
    assert parts.hostname and options["timeout"] and not options["allow_redirects"]
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    body = None if options["json"] is None else json.dumps(options["json"])
    connection.request(method, parts.path, body, {"Content-Type": "application/json"})
    return Answer(connection.getresponse())


class BMCType:
    """As Mr-Provisioner's."""


class BMCError(Exception):
    """As Mr-Provisioner's."""


def load(path: str, registered: List[Any]) -> None:
    """Import the driver among these; it registers an instance."""
    stubs = {
        "requests": {
            "request": ask,
            "Response": Answer,
            "codes": SimpleNamespace(
                ok=200, not_found=404, conflict=409, server_error=500, unavailable=503
            ),
            "auth": SimpleNamespace(HTTPDigestAuth=object),
        },
        "mr_provisioner": {},
        "mr_provisioner.bmc_types": {
            "BMCType": BMCType,
            "BMCError": BMCError,
            "register_bmc_type": lambda klass: registered.append(klass()),
        },
    }
    for name, members in stubs.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    spec = importlib.util.spec_from_file_location("mr_provisioner.bmc_types.libvirt_bmc", path)
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def said(step: Callable[[], Any]) -> Any:
    """What came of a step."""
    try:
        return step()
    except BMCError as error:
        return str(error)


def drive(by: Any, port: str, name: str) -> None:
    bmc = SimpleNamespace(ip="127.0.0.1", username="", password="")
    machine = SimpleNamespace(name=name, bmc=bmc, bmc_info="http://:" + port)
    nowhere = SimpleNamespace(name="no such", bmc=bmc, bmc_info=machine.bmc_info)
    steps = [
        lambda: by.name,
        lambda: by.get_power(machine),
        lambda: by.set_power(machine, "off"),
        lambda: by.get_power(machine),
        lambda: by.set_bootdev(machine, "pxe"),
        lambda: by.set_power(machine, "reset"),
        lambda: by.get_power(machine),
        lambda: by.set_bootdev(machine, "floppy"),
        lambda: by.get_power(nowhere),
        lambda: by.validate_bmc_info("https://:99999"),
        lambda: by.validate_bmc_info("?machine=a;ca=b"),
    ]
    print(json.dumps([said(step) for step in steps]))


def main(path: str, *machine: str) -> None:
    registered = []  # type: List[Any]
    load(path, registered)
    drive(registered[0], *machine)


if __name__ == "__main__":
    main(*sys.argv[1:])
