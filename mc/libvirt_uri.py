"""What a libvirt URI says by itself (https://libvirt.org/uri.html, /remote.html, /drivers.html)."""

import difflib
import os
import re
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import unquote, urlsplit

from mc.settings_values import is_loopback

# Those of libvirt 9 to 11 (https://libvirt.org/drivers.html), to tell a slip from a failure.
_DRIVERS = (
    *("bhyve", "ch", "esx", "gsx", "hyperv", "interface", "lxc", "network", "nodedev", "nwfilter"),
    *("openvz", "qemu", "remote", "secret", "storage", "test", "vbox", "vmwarefusion"),
    *("vmwareplayer", "vmwarews", "vpx", "vz", "xen"),
)
_PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22, "libssh": 22, "libssh2": 22}
# Parameters that say how a host is reached and known, not which libvirt is.
_MANNERS = {
    *("no_tty", "no_verify", "no_sanity", "sshauth", "known_hosts", "known_hosts_verify"),
    *("pkipath", "tls_priority"),
}


@dataclass(frozen=True)
class _Parts:
    """The parts of a URI, with what libvirt takes for those that are left out."""

    driver: str
    transport: str
    user: str
    host: str
    port: int
    path: str
    parameters: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, uri: str) -> Self:
        """Raises `ValueError` for what is no URI, such as an alias from libvirt.conf."""
        parts = urlsplit(uri)
        if not parts.scheme:
            raise ValueError("it is no URI, and so an alias that libvirt.conf should have")
        driver, _, transport = parts.scheme.partition("+")
        host = parts.hostname or ""
        transport = transport or ("tls" if host else "unix")
        # libvirt takes the names of parameters in any case, and two ways to part them.
        pairs = (one.partition("=") for one in re.split("[&;]", parts.query) if one)
        return cls(
            driver,
            transport,
            unquote(parts.username or ""),
            host,
            parts.port or _PORTS.get(transport, 0),
            unquote(parts.path),
            frozenset((unquote(name).lower(), unquote(value)) for name, _, value in pairs),
        )

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.parameters if key == name and value != "0"]


def identity(uri: str) -> object:
    """What two URIs have in common that lead to one libvirt, as far as they tell.

    >>> identity("qemu://KVM1/system/") == identity("qemu+tls://kvm1:16514/system?pkipath=/x")
    True
    >>> identity("qemu+ssh://kvm1/system") == identity("qemu+ssh://kvm1/session")
    False
    """
    try:
        parts = _Parts.of(uri)
    except ValueError:
        return uri
    path = parts.path.rstrip("/")
    if parts.driver in ("lxc", "xen"):
        path = path or "/system"
    others = frozenset(one for one in parts.parameters if one[0] not in _MANNERS)
    return replace(parts, path=path, parameters=others)


def is_near(uri: str) -> bool:
    """Whether a URI leads to a libvirt of this host, as far as it tells."""
    try:
        return not _Parts.of(uri).host
    except ValueError:
        return False


def complaint(uri: str) -> str | None:
    """Why a URI must not be used at all; None if it may be."""
    try:
        parts = _Parts.of(uri)
    except ValueError:
        return None
    if not parts.transport.startswith("libssh"):
        return None
    methods = {one.strip().lower() for value in parts.values("sshauth") for one in value.split(",")}
    if methods and methods <= {"privkey", "agent"}:
        return None
    return (
        f"+{parts.transport} would send commands to the host as passwords: add sshauth=privkey "
        "(or agent, or both), or use +ssh"
    )


def warnings(uri: str) -> list[str]:
    """What is unsafe or brittle about a URI that may be used."""
    try:
        parts = _Parts.of(uri)
    except ValueError:
        return []
    found = []
    if parts.values("no_verify") or "ignore" in parts.values("known_hosts_verify"):
        found.append(
            "whoever answers in the host's place is taken for it: no key or certificate is verified"
        )
    if parts.transport in ("ssh", "libssh", "libssh2") and parts.values("socket"):
        found.append(
            "socket= takes nc on the host and one of libvirt's several sockets: without it libvirt "
            "finds the right one by itself"
        )
    if parts.transport == "tcp" and not is_loopback(parts.host or "localhost"):
        found.append(
            "+tcp is not encrypted, and often lets in whoever reaches it: use +tls or +ssh"
        )
    return found


def hint(uri: str) -> str:
    """What may be wrong where libvirt cannot be reached by a URI.

    >>> hint("qmeu:///system")
    "libvirt has no driver 'qmeu': is 'qemu' meant?"
    >>> hint("qemu+ssh://host/sytem")
    "is the path '/system' meant?"
    >>> hint("qemu+ssh://host/system")
    'does libvirt run, and may this user use it?'
    """
    try:
        parts = _Parts.of(uri)
    except ValueError as error:
        return str(error)
    if parts.driver not in _DRIVERS:
        near = difflib.get_close_matches(parts.driver, _DRIVERS, 1)
        meant = f": is {near[0]!r} meant?" if near else ""
        return f"libvirt has no driver {parts.driver!r}{meant}"
    paths = ("/system", "/session", "/embed")
    if parts.driver == "qemu" and parts.path not in paths:
        near = difflib.get_close_matches(parts.path, paths, 1) or ["/system"]
        return f"is the path {near[0]!r} meant?"
    if parts.driver == "test" and not os.path.exists(parts.path):  # noqa: PTH110
        return f"there is no file {parts.path}"
    return "does libvirt run, and may this user use it?"
