"""How to serve."""

from dataclasses import dataclass, field

from mc.web.server.addresses import Proxies


@dataclass(frozen=True)
class Limits:
    """What a request may have.

    head: bytes of the request line, and of the known fields together. body: bytes. segments: parts
    of the path.
    """

    head: int
    body: int
    segments: int


@dataclass(frozen=True)
class Serving:
    """How many to serve at once, and how long to wait for them.

    workers: requests that are answered at once. connections: as many at most. seconds: for a client
    to send a request, to take an answer, and between two. proxies: those that are believed.
    """

    limits: Limits
    workers: int
    connections: int
    seconds: float
    proxies: Proxies = field(default_factory=Proxies)
