"""Whose address is whose: networks, and proxies that speak for their clients."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

# One customer of an IPv6 provider has at least this prefix to choose addresses from (RFC 6177).
_IPV6_PREFIX = 64


@lru_cache(4096)
def plain(address: str) -> str:
    """An address as the system gives it, an IPv4 address in its usual form.

    >>> plain("::ffff:192.0.2.7"), plain("2001:DB8::1")
    ('192.0.2.7', '2001:db8::1')
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(parsed)


@lru_cache(4096)
def network_of(address: str, ipv4_prefix: int = 32, ipv6_prefix: int = _IPV6_PREFIX) -> str:
    """The part of an address that its owner cannot choose.

    >>> network_of("192.0.2.7"), network_of("2001:db8:1:2:3::4"), network_of("192.0.2.7", 24, 48)
    ('192.0.2.7/32', '2001:db8:1:2::/64', '192.0.2.0/24')
    """
    base = address.partition("%")[0]
    return str(ip_network(f"{base}/{ipv6_prefix if ':' in base else ipv4_prefix}", strict=False))


class Proxies:
    """The proxies that are believed when they tell for whom they ask, by their networks."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ip_network(network) for network in networks]

    def trusts(self, address: str) -> bool:
        """Whether this address is that of such a proxy."""
        if not self._networks:
            return False
        parsed = ip_address(address)
        return any(parsed in network for network in self._networks)

    def client(self, address: str, forwarded_for: str) -> str:
        """Who asks, by the address that the request came from and its `X-Forwarded-For`.

        Each proxy appends whom it heard, so what stands right of a stranger's address is true, and
        what stands left of it may be invented.

        >>> Proxies(["10.0.0.0/8"]).client("10.0.0.1", "198.51.100.1, 192.0.2.7, 10.0.0.2")
        '192.0.2.7'
        >>> Proxies(["10.0.0.0/8"]).client("192.0.2.7", "198.51.100.1")
        '192.0.2.7'
        """
        heard = [text for text in forwarded_for.split(",") if text.strip()]
        while heard and self.trusts(address):
            try:
                address = _without_port(heard.pop().strip())
            except ValueError:
                break
        return address

    def scheme(self, address: str, forwarded_proto: str) -> str | None:
        """The scheme that the client used, if such a proxy tells it in `X-Forwarded-Proto`."""
        told = forwarded_proto.rpartition(",")[2].strip().lower()
        return told if told in ("http", "https") and self.trusts(address) else None


def _without_port(text: str) -> str:
    """The address in `ADDRESS`, `IPV4:PORT` or `[IPV6]:PORT`. Raises ValueError.

    >>> _without_port("192.0.2.7:80"), _without_port("[2001:db8::1]:80"), _without_port("::1")
    ('192.0.2.7', '2001:db8::1', '::1')
    """
    if "%" in text:
        # In a scope there may be anything.
        raise ValueError("an address of another host has no scope here")
    if text.startswith("["):
        inner, bracket, _ = text[1:].partition("]")
        text = inner if bracket else text
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return plain(text)
