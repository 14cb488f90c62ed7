"""Who somebody is: HTTP Digest (RFC 7616), and over TLS Basic (RFC 7617) for the same accounts."""

import base64
import binascii
import hmac
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from wsgiref.types import WSGIEnvironment

from cherrypy.lib.auth_digest import HttpDigestAuthorization, www_authenticate

from mc.errors import UsersUnusable
from mc.users import REALM, Users, ha1
from mc.web.access.attempts import LONGEST_IN_LINE, Attempts
from mc.web.problems import Problem
from mc.web.routing.journal import quoted
from mc.web.server.connection import Connection
from mc.web.server.gateway import CONNECTION
from mc.web.server.incoming import taken_apart

log = logging.getLogger(__name__)

# How long a nonce is good for; an older one is renewed without asking the user again.
_NONCE_SECONDS = 600
# Characters, for a name and a URL that are as long as can be. The library takes its time for each.
_LONGEST_CLAIM = 2048
# In place of the HA1 of an account that there is not.
_NOBODYS = "0" * 32


@dataclass
class _Claim:
    """Who a request says that it is from; `proof` is what it should have sent, if it is."""

    name: str
    given: str
    proof: str
    is_account: bool
    stale: bool = False

    @cached_property
    def holds(self) -> bool:
        given = self.given.encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self.proof.encode()) and self.is_account


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

    def identify(self, environment: WSGIEnvironment) -> str:
        """The user who sent the request with this WSGI environment.

        Raises a `Problem`: 401, and its answer is sent late if a password was wrong, or not at all
        if very many are; 503 while the users file cannot be used.
        """
        try:
            return self._user(environment)
        except UsersUnusable as error:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "nobody can be let in now; the log says why",
                headers={"Retry-After": "2"},
            ) from error

    def _user(self, environment: WSGIEnvironment) -> str:
        claim = self._claim(environment)
        if claim is None:
            raise self._challenge(environment, "a user name and a password are needed")
        connection: Connection = environment[CONNECTION]
        # Over a trusted proxy's connection the next request may be anybody's.
        connection.signed_in = claim.holds and not connection.shared
        if not claim.holds:
            self._slow_down(environment, claim.name)
            raise self._challenge(environment, "the user name or the password is wrong")
        if claim.stale:
            raise self._challenge(environment, "the nonce is too old", stale=True)
        return claim.name

    def _slow_down(self, environment: WSGIEnvironment, name: str) -> None:
        address = environment["REMOTE_ADDR"]
        connection: Connection = environment[CONNECTION]
        seconds = self._attempts.wrong(address, name)
        if seconds is None:
            connection.answer_never(LONGEST_IN_LINE)
            log.debug("wrong password, of too many: client=%s user=%s", address, quoted(name))
        else:
            connection.answer_after(seconds)
            log.warning("wrong password: client=%s user=%s", address, quoted(name))

    def membership(self, name: str) -> Callable[[], bool]:
        """Tells, whenever it is called, whether a user's account is still what it is now."""
        secret = self._users.ha1(name)

        def lasts() -> bool:
            try:
                return self._users.ha1(name) == secret
            except UsersUnusable:
                return False

        return lasts

    def may_act(self, name: str | None) -> bool:
        return name not in self._readers

    def _claim(self, environment: WSGIEnvironment) -> _Claim | None:
        """What the request says; None if it says nothing that can be understood."""
        header: str = environment.get("HTTP_AUTHORIZATION", "")
        scheme, _, credentials = header.partition(" ")
        try:
            if len(header) > _LONGEST_CLAIM:
                raise ValueError(f"credentials of {len(header)} characters")
            if scheme.lower() == "digest":
                return self._digest(environment, header)
            if scheme.lower() == "basic" and environment["wsgi.url_scheme"] == "https":
                return self._basic(credentials)
        # CherryPy's parser finds no first character in a value that is empty.
        except (ValueError, IndexError) as error:
            log.debug("credentials that cannot be read: %s", quoted(str(error)))
        return None

    def _digest(self, environment: WSGIEnvironment, header: str) -> _Claim:
        sent = HttpDigestAuthorization(header, environment["REQUEST_METHOD"])
        if sent.qop not in (None, "auth") or sent.realm != REALM:
            raise ValueError("another realm, or a qop that was not offered")
        if taken_apart(sent.uri)[0] != environment["REQUEST_URI"]:
            raise ValueError("the URI that was signed is not the one that was called")
        secret = self._users.ha1(sent.username)
        # As much work for an account that there is not: else it would take less time.
        proof = sent.request_digest(secret or _NOBODYS)
        stale = not sent.validate_nonce(REALM, self._key) or sent.is_nonce_stale(_NONCE_SECONDS)
        return _Claim(sent.username, sent.response, proof, secret is not None, stale)

    def _basic(self, credentials: str) -> _Claim:
        try:
            text = base64.b64decode(credentials.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error
        name, colon, password = text.partition(":")
        if not colon:
            raise ValueError("no colon in Basic credentials")
        secret = self._users.ha1(name)
        return _Claim(name, ha1(name, password), secret or _NOBODYS, secret is not None)

    def _challenge(
        self, environment: WSGIEnvironment, detail: str, *, stale: bool = False
    ) -> Problem:
        challenge = www_authenticate(REALM, self._key, stale=stale)
        if environment["wsgi.url_scheme"] == "https":
            challenge += f', Basic realm="{REALM}"'
        return Problem(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})
