"""Who may call: users, of this host, and on nobody else's behalf."""

import socket
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from mc.web.access.accounts import Accounts
from mc.web.problems import Problem

# RFC 1035, section 2.3.4; a client may send anything.
_LONGEST_NAME = 255
_DEFAULT_PORTS = {"http": 80, "https": 443}
# How browsers and their helpers say that nobody has asked yet.
_PREFETCH_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
_PREFETCHES = ("prefetch", "prerender", "preview")
# What the User-Agent of every browser begins with.
_BROWSER = "Mozilla/"


class Guard:
    """Admits requests, or raises the `Problem` to answer.

    `names` are what this host may be called beside its own name, `localhost` and an IP address.
    Without `accounts` everybody is let in.
    """

    def __init__(self, names: Iterable[str], accounts: Accounts | None) -> None:
        self._accounts = accounts
        self._given_names = {name.lower().rstrip(".") for name in names}
        own = ("localhost", socket.gethostname(), socket.getfqdn())
        self._names = self._given_names | {name.lower().rstrip(".") for name in own}

    def admit(self, request: Any, *, public: bool) -> None:
        """421 for a host that is not this one, 401 for who is no user, unless it is `public`."""
        self._check_host(request)
        if self._accounts and not public:
            request.login = self._accounts.identify(request)
            request.membership = partial(self._accounts.membership, request.login)

    def admit_action(self, request: Any) -> None:
        """403 for a user who may only read, and for what no user asked for.

        That is what a foreign page causes (https://www.w3.org/TR/fetch-metadata/), or a prefetch.
        """
        if self._accounts and not self._accounts.may_act(request.login):
            raise Problem(HTTPStatus.FORBIDDEN, f"{request.login} may only read")
        for header in _PREFETCH_HEADERS:
            purpose = request.headers.get(header, "").lower()
            if any(prefetch in purpose for prefetch in _PREFETCHES):
                raise Problem(HTTPStatus.FORBIDDEN, "a prefetch must not act")
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in ("none", "same-origin"):
            raise Problem(HTTPStatus.FORBIDDEN, f"a {site} page must not act here")
        if self._is_silent_browser(request):
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "by this name of the host a browser does not say which page asks: use localhost",
            )
        for header in ("Origin", "Referer"):
            address = request.headers.get(header)
            if address and not _same_host(address, request.headers.get("Host", "")):
                raise Problem(
                    HTTPStatus.FORBIDDEN,
                    f"a page of another host must not act here: {address[:_LONGEST_NAME]}",
                )

    def _is_silent_browser(self, request: Any) -> bool:
        """Whether a browser on this host says nothing of the page that asks.

        Browsers send Sec-Fetch-Site over TLS, and to what is the loopback by its look. That
        0.0.0.0 or this host's name leads there as well, they do not know, and the page may have
        them send neither Origin nor Referer. From another host a typed URL looks the same.
        """
        headers = request.headers
        if request.scheme == "https" or not headers.get("User-Agent", "").startswith(_BROWSER):
            return False
        if any(header in headers for header in ("Sec-Fetch-Site", "Origin", "Referer")):
            return False
        host = _host_and_port(headers.get("Host", ""), "http")[0].rstrip(".")
        known = host in ("localhost", "::1", *self._given_names) or host.startswith("127.")
        client = request.remote.ip.removeprefix("::ffff:")
        return not known and (client == "::1" or client.startswith("127."))

    def _check_host(self, request: Any) -> None:
        """A name that a foreign page has made to point here must not make it one of ours.

        DNS rebinding; RFC 9110, section 7.4. Only HTTP/1.0 may leave the host out, and browsers
        do not speak it.
        """
        uri = request.wsgi_environ["REQUEST_URI"]
        authorities = [request.headers.get("Host", "localhost")]
        if not uri.startswith("/") and uri != "*":
            authorities.append(urlsplit(uri).netloc)
        for authority in authorities:
            if not self._is_own(_host_and_port(authority, "http")[0]):
                raise Problem(
                    HTTPStatus.MISDIRECTED_REQUEST,
                    f"{authority[:_LONGEST_NAME]!r} is no name of this host; "
                    "server.names may list it",
                )

    def _is_own(self, host: str) -> bool:
        try:
            ip_address(host)
        except ValueError:
            return host.rstrip(".") in self._names
        return True


def _same_host(address: str, authority: str) -> bool:
    """Whether the URL of a page is on the host that the request is for."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return _host_and_port(parts.netloc, parts.scheme) == _host_and_port(authority, parts.scheme)


def _host_and_port(authority: str, scheme: str) -> tuple[str, int | None]:
    """The parts of `HOST[:PORT]`, in lower case and without brackets; ("", None) for nonsense.

    >>> _host_and_port("[::1]:9001", "http")
    ('::1', 9001)
    >>> _host_and_port("Lab", "https")
    ('lab', 443)
    """
    try:
        parts = urlsplit(f"//{authority}")
        return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(scheme)
    except ValueError:
        return "", None
