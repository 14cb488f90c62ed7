"""Who somebody is: HTTP Digest (RFC 7616), and over TLS Basic (RFC 7617) for the same accounts."""

import base64
import binascii
import hmac
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from cherrypy.lib.auth_digest import HttpDigestAuthorization, www_authenticate

from mc.errors import UsersUnusable
from mc.users import REALM, Users, ha1
from mc.web.access.attempts import Attempts, TooManyAttempts
from mc.web.journal import quoted
from mc.web.problems import Problem

log = logging.getLogger(__name__)

# How long a nonce is good for; an older one is renewed without asking the user again.
_NONCE_SECONDS = 600


@dataclass(frozen=True)
class _Claim:
    """Who a request says that it is from; `proof` is what it should have sent, if it is."""

    name: str
    given: str
    proof: str | None
    stale: bool = False

    @property
    def holds(self) -> bool:
        return self.proof is not None and hmac.compare_digest(
            self.given.encode("utf-8", "surrogateescape"), self.proof.encode()
        )


class Accounts:
    """Tells users from others. `readers` may read only.

    CherryPy's digest tool would not compare the URI that was signed with the one that is called,
    and would have browsers ask for the password anew when the controller was restarted.
    """

    def __init__(self, users: Users, readers: Iterable[str], attempts: Attempts) -> None:
        self._users = users
        self._readers = frozenset(readers)
        self._attempts = attempts
        self._key = secrets.token_hex()

    def identify(self, request: Any) -> str:
        """The user who sent a request.

        Raises a `Problem`: 401, 429 for an address with too many wrong passwords, or 503 while the
        users file cannot be used.
        """
        try:
            return self._user(request)
        except TooManyAttempts as error:
            raise _later(HTTPStatus.TOO_MANY_REQUESTS, "too many wrong passwords") from error
        except UsersUnusable as error:
            raise _later(
                HTTPStatus.SERVICE_UNAVAILABLE, "nobody can be let in now; the log says why"
            ) from error

    def _user(self, request: Any) -> str:
        address = request.remote.ip
        self._attempts.check(address)
        claim = self._claim(request)
        if claim is None:
            raise self._challenge(request, "a user name and a password are needed")
        if not claim.holds:
            log.warning("wrong password: client=%s user=%s", address, quoted(claim.name))
            self._attempts.punish(address)
            raise self._challenge(request, "the user name or the password is wrong")
        if claim.stale:
            raise self._challenge(request, "the nonce is too old", stale=True)
        return claim.name

    def membership(self, name: str) -> Callable[[], bool]:
        """Tells, whenever it is called, whether a user's account is still what it is now."""
        secret = self._users.ha1(name)

        def lasts() -> bool:
            try:
                return self._users.ha1(name) == secret
            except UsersUnusable:
                return False

        return lasts

    def may_act(self, name: str) -> bool:
        return name not in self._readers

    def _claim(self, request: Any) -> _Claim | None:
        """What the request says; None if it says nothing that can be understood."""
        # Not CherryPy's header: it takes `=?` in one for encoded text (RFC 2047).
        header: str = request.wsgi_environ.get("HTTP_AUTHORIZATION", "")
        scheme, _, credentials = header.partition(" ")
        try:
            if scheme.lower() == "digest":
                return self._digest(request, header)
            if scheme.lower() == "basic" and request.scheme == "https":
                return self._basic(credentials)
        # CherryPy's parser finds no first character in a value that is empty.
        except (ValueError, IndexError) as error:
            log.debug("credentials that cannot be read: %s", error)
        return None

    def _digest(self, request: Any, header: str) -> _Claim:
        sent = HttpDigestAuthorization(header, request.method)
        if sent.qop not in (None, "auth") or sent.realm != REALM:
            raise ValueError("another realm, or a qop that was not offered")
        if _target(sent.uri) != _target(request.wsgi_environ["REQUEST_URI"]):
            raise ValueError("the URI that was signed is not the one that was called")
        secret = self._users.ha1(sent.username)
        proof = None if secret is None else sent.request_digest(secret)
        stale = not sent.validate_nonce(REALM, self._key) or sent.is_nonce_stale(_NONCE_SECONDS)
        return _Claim(sent.username, sent.response, proof, stale)

    def _basic(self, credentials: str) -> _Claim:
        try:
            text = base64.b64decode(credentials.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error
        name, colon, password = text.partition(":")
        if not colon:
            raise ValueError("no colon in Basic credentials")
        return _Claim(name, ha1(name, password), self._users.ha1(name))

    def _challenge(self, request: Any, detail: str, *, stale: bool = False) -> Problem:
        challenge = www_authenticate(REALM, self._key, stale=stale)
        if request.scheme == "https":
            challenge += f', Basic realm="{REALM}"'
        return Problem(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})


def _later(status: HTTPStatus, detail: str) -> Problem:
    return Problem(status, detail, headers={"Retry-After": "2"})


def _target(uri: str) -> str:
    """What follows the host in a URI: a proxy may have seen the rest."""
    if uri.startswith("/"):
        return uri
    parts = urlsplit(uri)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
