"""Who may call: users, of this host, and on nobody else's behalf."""

import re
import socket
from collections.abc import Callable, Iterable
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit
from wsgiref.types import WSGIEnvironment

from mc.web.access.accounts import Accounts
from mc.web.problems import Problem
from mc.web.server.gateway import AUTHORITY

# RFC 1035, section 2.3.4; a client may send anything.
_LONGEST_NAME = 255
_AUTHORITY = re.compile(
    r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,255}))(?::([0-9]{0,5}))?", re.ASCII | re.I
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
# How browsers and their helpers say that nobody has asked yet.
_PREFETCH_HEADERS = ("HTTP_SEC_PURPOSE", "HTTP_PURPOSE", "HTTP_X_PURPOSE", "HTTP_X_MOZ")
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
        # A client calls this host by the same name each time.
        self._is_here = lru_cache(256)(self._names_this_host)

    def admit(self, environment: WSGIEnvironment, *, public: bool) -> str | None:
        """The user who asks; None if none is needed, as for what is `public`.

        421 for a host that is not this one, 401 for who is no user.
        """
        self._check_host(environment)
        if self._accounts is None or public:
            return None
        return self._accounts.identify(environment)

    def membership(self, name: str | None) -> Callable[[], bool]:
        """Tells, whenever it is called, whether who was let in would still be."""
        if self._accounts is None or name is None:
            return lambda: True
        return self._accounts.membership(name)

    def admit_action(self, environment: WSGIEnvironment, name: str | None) -> None:
        """403 for a user who may only read, and for what no user asked for.

        That is what a foreign page causes (https://www.w3.org/TR/fetch-metadata/), or a prefetch.
        """
        if self._accounts and not self._accounts.may_act(name):
            raise Problem(HTTPStatus.FORBIDDEN, f"{name} may only read")
        for header in _PREFETCH_HEADERS:
            purpose = environment.get(header, "").lower()
            if any(prefetch in purpose for prefetch in _PREFETCHES):
                raise Problem(HTTPStatus.FORBIDDEN, "a prefetch must not act")
        site = environment.get("HTTP_SEC_FETCH_SITE", "none")
        if site not in ("none", "same-origin"):
            raise Problem(HTTPStatus.FORBIDDEN, f"a {site[:_LONGEST_NAME]} page must not act here")
        if self._is_silent_browser(environment):
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "by this name of the host a browser does not say which page asks: use localhost",
            )
        for header in ("HTTP_ORIGIN", "HTTP_REFERER"):
            address = environment.get(header)
            if address and not _is_own_page(address, environment):
                raise Problem(
                    HTTPStatus.FORBIDDEN,
                    f"a page of another host must not act here: {address[:_LONGEST_NAME]}",
                )

    def _is_silent_browser(self, environment: WSGIEnvironment) -> bool:
        """Whether a browser on this host says nothing of the page that asks.

        Browsers send Sec-Fetch-Site over TLS, and to what is the loopback by its look. That
        0.0.0.0 or this host's name leads there as well, they do not know, and the page may have
        them send neither Origin nor Referer. From another host a typed URL looks the same.
        """
        browser = environment.get("HTTP_USER_AGENT", "").startswith(_BROWSER)
        if environment["wsgi.url_scheme"] == "https" or not browser:
            return False
        if any(f"HTTP_{said}" in environment for said in ("SEC_FETCH_SITE", "ORIGIN", "REFERER")):
            return False
        host = _host_and_port(environment.get("HTTP_HOST", ""), "http")[0].rstrip(".")
        known = host in ("localhost", "::1", *self._given_names) or host.startswith("127.")
        return not known and ip_address(environment["REMOTE_ADDR"]).is_loopback

    def _check_host(self, environment: WSGIEnvironment) -> None:
        """A name that a foreign page has made to point here must not make it one of ours.

        DNS rebinding; RFC 9110, section 7.4. Only HTTP/1.0 may leave the host out, and browsers
        do not speak it.
        """
        authorities = [environment.get("HTTP_HOST", "localhost")]
        if AUTHORITY in environment:
            authorities.append(environment[AUTHORITY])
        for authority in authorities:
            if not self._is_here(authority):
                raise Problem(
                    HTTPStatus.MISDIRECTED_REQUEST,
                    f"{authority[:_LONGEST_NAME]!r} is no name of this host; "
                    "server.names may list it",
                )

    def _names_this_host(self, authority: str) -> bool:
        host = _host_and_port(authority, "http")[0]
        try:
            ip_address(host)
        except ValueError:
            return host.rstrip(".") in self._names
        return True


def _is_own_page(address: str, environment: WSGIEnvironment) -> bool:
    """Whether the URL of a page is on the host that the request is for.

    What came over TLS is not to be caused by a page that anybody on its way may have changed. The
    other way round there may be a proxy that speaks TLS and of which one does not know.
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    allowed = ("https",) if environment["wsgi.url_scheme"] == "https" else ("http", "https")
    page = _host_and_port(parts.netloc, parts.scheme)
    here = _host_and_port(environment.get("HTTP_HOST", ""), parts.scheme)
    return parts.scheme in allowed and page[0] != "" and page == here


def _host_and_port(authority: str, scheme: str) -> tuple[str, int | None]:
    """The parts of `HOST[:PORT]`, in lower case and without brackets; ("", None) for nonsense.

    >>> _host_and_port("[::1]:9001", "http"), _host_and_port("me@localhost", "http")
    (('::1', 9001), ('', None))
    >>> _host_and_port("Lab", "https")
    ('lab', 443)
    """
    found = _AUTHORITY.fullmatch(authority)
    if not found:
        return "", None
    port = int(found[3]) if found[3] else _DEFAULT_PORTS.get(scheme)
    return (found[1] or found[2]).lower(), port
