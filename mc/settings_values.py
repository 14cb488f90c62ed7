"""What a setting's value must be, beside its type; one small function for each kind of value."""

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

Check = Callable[[Any], str | None]
"""What is wrong with a value of the right type, or None."""


def anything(value: object) -> str | None:
    return None


def between(least: float, most: float) -> Check:
    def check(value: float) -> str | None:
        return None if least <= value <= most else f"must be between {least:g} and {most:g}"

    return check


def one_of(*allowed: str) -> Check:
    def check(value: str) -> str | None:
        return None if value in allowed else "must be one of " + ", ".join(map(repr, allowed))

    return check


def names(value: tuple[str, ...]) -> str | None:
    return None if all(map(str.strip, value)) else "must be a list of texts that are not empty"


def networks(value: tuple[str, ...]) -> str | None:
    try:
        for network in value:
            ip_network(network)
    except ValueError as error:
        return f"must be a list of addresses and networks, such as '10.0.0.0/8': {error}"
    return None


def user_names(value: tuple[str, ...]) -> str | None:
    """By RFC 7616, section 3.4, a user name of Digest authentication holds no colon."""
    if any(":" in name or not name.isprintable() for name in value):
        return "must be a list of user names, which hold no colon"
    return names(value)


def filled(value: str) -> str | None:
    return None if value.strip() and value.isprintable() else "must be printable text"


def libvirt_uri(value: str) -> str | None:
    """A libvirt URI (https://libvirt.org/uri.html) or an alias from libvirt.conf."""
    if re.fullmatch(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?:[!-~]+|[\w-]+", value, re.ASCII | re.I):
        return None
    return "must be a libvirt URI such as 'qemu:///system'"


def absolute(value: str) -> str | None:
    if Path(value).is_absolute() and "\0" not in value:
        return None
    return "must be an absolute path"


def absolute_or_none(value: str) -> str | None:
    return absolute(value) if value else None


def host(value: str) -> str | None:
    """A name or an address; the system tells whether it is one of this host's."""
    labels = value.split(".")
    if re.fullmatch(r"[a-z0-9_.:%-]+", value, re.ASCII | re.I) and max(map(len, labels)) < 64:
        return None
    return "must be a host name or an IP address"


def shutdown_mode(value: str) -> str | None:
    modes = {"acpi", "agent", "initctl", "signal", "paravirt"}
    if not value or set(value.split(",")) <= modes:
        return None
    return "must be empty or a list of virsh's shutdown modes: " + ", ".join(sorted(modes))


def is_loopback(host: str) -> bool:
    """Whether a host is this one alone; any name but `localhost` may be or become another."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
