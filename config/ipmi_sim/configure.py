#!/usr/bin/env python3
"""Write what `ipmi_sim` needs to serve the machines of a controller, one UDP port each.

It asks the controller over HTTP, so it needs no libvirt and runs on any host with Python 3.9 or
newer, which ipmi_sim then uses as well. Run again when machines have been added, it remembers what
it was told; each machine keeps its port, and the port of one that is gone goes to no other.
"""

import argparse
import getpass
import ipaddress
import json
import re
import socket
import sys
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controller import Controller, Refused
from files import Unusable, command, label, plain, write_all
from jobs import Failed, clock

FIRST_PORT = 6230
CONNECT_SECONDS = 10.0
PATH = re.compile(r"(/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*")
"""A URL's path that can be sent as it is (RFC 3986, section 3.3)."""


Settings = dict[str, Any]


def main(arguments: "list[str] | None" = None) -> int:
    """Exit status: 0 if all is written, 1 if the controller does not tell, 2 if told nonsense."""
    options = command_line().parse_args(arguments)
    try:
        folder = plain(options.folder.absolute())
        settings = merged(options, remembered(folder))
        machines = list_machines(settings)
        give_ports(settings, [machine["uuid"] for machine in machines])
        write_all(folder, settings, machines)
    except (Unusable, OSError) as error:
        print(f"configure.py: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"configure.py: {error}", file=sys.stderr)
        return 1
    tell(folder, settings, machines)
    return 0


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write ipmi_sim's files for the machines of a libvirt_http_mc controller.",
        epilog="Passwords are asked for, or read from standard input, one a line: first that of "
        "--user at the controller, if that is given, then the one for IPMI. Options are "
        "remembered in FOLDER/settings.json, which only its owner can read.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to write")
    parser.add_argument(
        "--controller", metavar="URL", help="[http://127.0.0.1:9001]; /hosts/H: of one host"
    )
    parser.add_argument("--user", metavar="NAME", help="who to be at the controller")
    parser.add_argument("--ca", metavar="FILE", help="certificates to trust, for https")
    parser.add_argument("--machines", metavar="PATTERN", nargs="+", help="which ones [*]")
    parser.add_argument("--ipmi-user", metavar="NAME", help="who IPMI's clients are [admin]")
    parser.add_argument("--address", metavar="IP", help="where to listen [127.0.0.1]")
    parser.add_argument(
        "--first-port", metavar="PORT", type=int, help=f"where ports begin [{FIRST_PORT}]"
    )
    return parser


def remembered(folder: Path) -> Settings:
    """What was told last time, or the defaults."""
    defaults = {
        "scheme": "http",
        "host": "127.0.0.1",
        "port": "9001",
        "path": "",
        "machines": ["*"],
        "ipmi_user": "admin",
        "address": "127.0.0.1",
        "first_port": FIRST_PORT,
        "ports": {},
    }
    file = folder / "settings.json"
    try:
        return defaults | (json.loads(file.read_text("utf-8")) if file.exists() else {})
    except ValueError as error:
        raise Unusable(f"{file}: {error}") from error


def merged(options: argparse.Namespace, settings: Settings) -> Settings:
    """The settings with what is told now."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("user", "machines", "ipmi_user", "address", "first_port"):
        if name in given:
            settings[name] = given[name]
    if "controller" in given:
        settings |= address_of(given["controller"])
    if "ca" in given:
        settings["ca"] = str(Path(given["ca"]).absolute())
    if "user" in given:
        settings["password"] = secret(f"Password of {settings['user']} at the controller: ")
    if "ipmi_user" in given or "ipmi_password" not in settings:
        settings["ipmi_password"] = secret(f"Password of {settings['ipmi_user']} for IPMI: ")
    check(settings)
    return settings


def address_of(url: str) -> Settings:
    """What a URL says about where the controller is."""
    parts = urlsplit(url)
    ports = {"http": 80, "https": 443}
    try:
        port = parts.port
    except ValueError as error:
        raise Unusable(f"{url}: {error}") from error
    if parts.username is not None:
        raise Unusable("no user name or password in the URL: --user asks for the password")
    # A slash too many means nothing.
    names = [*filter(None, parts.path.split("/"))]
    path = "".join(f"/{name}" for name in names)
    is_base = PATH.fullmatch(path) and "service" not in names and names[-1:] != ["hosts"]
    more = parts.query or parts.fragment
    if parts.scheme not in ports or not parts.hostname or not is_base or more:
        raise Unusable(
            f"{url}: a controller's URL is such as https://host:9001, or https://host:9001/hosts/H "
            "for the machines of the host H alone"
        )
    return {
        "scheme": parts.scheme,
        "host": parts.hostname,
        "port": str(port or ports[parts.scheme]),
        "path": path,
    }


def secret(prompt: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(prompt)
    line = sys.stdin.readline()
    if not line:
        raise Unusable(f"{prompt}nothing on standard input")
    return line.rstrip("\n")


def check(settings: Settings) -> None:
    """IPMI allows 16 and 20 characters; the other limits are those of ipmi_sim."""
    if not re.fullmatch(r"[!#-\[\]-~]{1,16}", settings["ipmi_user"]):
        raise Unusable('the user for IPMI: 1 to 16 ASCII characters, no spaces, no " or \\')
    if not re.fullmatch(r"[!#-\[\]-~]{1,19}", settings["ipmi_password"]):
        raise Unusable('the password for IPMI: 1 to 19 ASCII characters, no spaces, no " or \\')
    if not 1 <= settings["first_port"] <= 65535:
        raise Unusable("ports are between 1 and 65535")
    try:
        ipaddress.ip_address(settings["address"])
    except ValueError as error:
        raise Unusable(f"--address: {error}") from error
    if "ca" in settings and not Path(settings["ca"]).is_file():
        raise Unusable(f"{settings['ca']}: there is no such file")


def list_machines(settings: Settings) -> list[dict[str, str]]:
    """The machines whose names match, each with `name`, `uuid` and, among many hosts, its `host`.

    Machines of one UUID are one, which is on several hosts.
    """
    controller = Controller(settings, connect_by=clock() + CONNECT_SECONDS)
    try:
        # Those of a host that is away would be left out, and ipmi_sim would serve them no longer.
        answer = controller.request("GET", "/service/machines?complete=true")
    except Refused as error:
        if not error.told.get("hosts"):
            raise
        one = controller.address("/hosts/H")
        raise Failed(
            f"{error}: nothing was written; --controller {one} asks the host H alone"
        ) from error
    machines = understood(answer)
    among_many = len({machine["host"] for machine in machines}) > 1
    by_uuid: dict[str, list[dict[str, str]]] = {}
    for machine in machines:
        by_uuid.setdefault(machine["uuid"], []).append(machine)
    patterns = settings["machines"]
    chosen = []
    for uuid, same in by_uuid.items():
        host = ", ".join(sorted(machine["host"] for machine in same)) if among_many else ""
        names = [machine["name"] for machine in same]
        fit = [name for name in names if any(fnmatchcase(name, each) for each in patterns)]
        chosen += [{"name": name, "uuid": uuid, "host": host} for name in fit[:1]]
    if not chosen:
        words = " or ".join(patterns)
        raise Failed(f"of the controller's {len(machines)} machines none is called {words}")
    return chosen


def understood(answer: str) -> list[dict[str, str]]:
    """The machines of a list, with what is needed of them. Raises Failed if it is none."""
    try:
        told = json.loads(answer)
        machines: list[dict[str, str]] = [
            {"name": one["name"], "uuid": one["uuid"], "host": one.get("host", "")} for one in told
        ]
        # All but the names are written to files as they are.
        good = isinstance(told, list) and all(
            re.fullmatch(r"[0-9a-f-]{36}", one["uuid"])
            and re.fullmatch(r"[a-z0-9.-]*", one["host"])
            and isinstance(one["name"], str)
            for one in machines
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise Failed("something that is not the controller has answered")
    return machines


def give_ports(settings: Settings, uuids: list[str]) -> None:
    """A port for each machine that has none; one that is in use now is skipped."""
    ports: dict[str, int] = settings["ports"]
    taken = set(ports.values())
    candidates = (
        port
        for port in count(settings["first_port"])
        if port not in taken and is_free(settings["address"], port)
    )
    for uuid in uuids:
        if uuid not in ports:
            ports[uuid] = next(candidates)


def is_free(address: str, port: int) -> bool:
    """ipmi_sim itself says nothing of a port that is in use."""
    if port > 65535:
        raise Unusable("there are no ports left: choose a lower --first-port")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except PermissionError:
            raise
        except OSError:
            return False
    return True


def tell(folder: Path, settings: Settings, machines: list[dict[str, str]]) -> None:
    """Which machine is where, and what to do next."""
    for machine in sorted(machines, key=lambda machine: settings["ports"][machine["uuid"]]):
        port = settings["ports"][machine["uuid"]]
        print(f"{settings['address']}:{port}  {machine['uuid']}  {label(machine)}")
    for lan in sorted(folder.glob("lan*.conf")):
        print(f"Start: {command(folder, lan.stem.removeprefix('lan'))}")
    for machine in machines:
        if "," in machine["host"]:
            warning = (
                f"configure.py: {label(machine)}, by one UUID: the one that runs is reached, and "
                "none while none runs or several do"
            )
            print(warning, file=sys.stderr)
    if not ipaddress.ip_address(settings["address"]).is_loopback:
        warning = (
            "configure.py: IPMI's cipher suite 0 lets in whoever knows the user name, with any "
            f"password, and ipmi_sim cannot refuse it: keep strangers from {settings['address']} "
            "with a firewall"
        )
        print(warning, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
