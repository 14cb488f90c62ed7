"""The paths of things, as they are told."""

from urllib.parse import quote

from mc.virsh.quoting import encode

# First segments under /service that are no machine.
_RESERVED = ("machine", "machines")


def host_url(name: str) -> str:
    """The path of a host, below which is what is at the top, for this host alone."""
    return f"/hosts/{name}"


def machine_url(name: str, uuid: str, host: str | None = None) -> str:
    """The path of a machine: by its name, by its UUID where the name means something else.

    >>> machine_url("my vm", "6695eb01-f6a4-8304-79aa-97f2502e193f")
    '/service/my%20vm'
    >>> machine_url("machine", "6695eb01-f6a4-8304-79aa-97f2502e193f", "kvm1")
    '/hosts/kvm1/service/6695eb01-f6a4-8304-79aa-97f2502e193f'
    """
    base = "" if host is None else host_url(host)
    return f"{base}/service/{quote(encode(uuid if name in _RESERVED else name), safe='')}"
