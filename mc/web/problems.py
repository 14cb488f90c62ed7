"""Errors into responses, in one place: RFC 9457 problem details."""

import json
import logging
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from math import ceil
from wsgiref.types import WSGIEnvironment

import cherrypy

from mc.errors import (
    Ambiguous,
    Away,
    BackupFailed,
    Busy,
    CannotBoot,
    ControllerError,
    HostDown,
    Migrating,
    NoAnswer,
    NoPicture,
    NoSuchHost,
    NoSuchMachine,
    NotConfigurable,
    Refused,
    TooMany,
    Transient,
    Unavailable,
    WrongState,
)
from mc.web.accept import prefers_html
from mc.web.times import utc
from mc.web.urls import machine_url

log = logging.getLogger(__name__)

_STATUS_BY_ERROR: dict[type[ControllerError], HTTPStatus] = {
    NoSuchMachine: HTTPStatus.NOT_FOUND,
    NoSuchHost: HTTPStatus.NOT_FOUND,
    Ambiguous: HTTPStatus.CONFLICT,
    WrongState: HTTPStatus.CONFLICT,
    Busy: HTTPStatus.CONFLICT,
    CannotBoot: HTTPStatus.CONFLICT,
    Migrating: HTTPStatus.CONFLICT,
    NoPicture: HTTPStatus.CONFLICT,
    NotConfigurable: HTTPStatus.CONFLICT,
    BackupFailed: HTTPStatus.INSUFFICIENT_STORAGE,
    Refused: HTTPStatus.CONFLICT,
    Transient: HTTPStatus.CONFLICT,
    TooMany: HTTPStatus.SERVICE_UNAVAILABLE,
    NoAnswer: HTTPStatus.GATEWAY_TIMEOUT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
_RETRY_AFTER_SECONDS = 1
_MEDIA_TYPE = "application/problem+json"


@dataclass
class Problem(Exception):
    """A response that is an error: raised where only HTTP is at fault.

    `members` are added to the problem's JSON.
    """

    status: HTTPStatus
    detail: str
    members: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def respond(self) -> None:
        """Make this the response to the request that CherryPy is serving."""
        response = cherrypy.serving.response
        response.status = self.status.value
        response.headers.update(self.headers)
        response.headers["Content-Type"] = _MEDIA_TYPE
        response.headers.pop("Content-Length", None)
        response.body = self.body(cherrypy.serving.request.wsgi_environ)

    def head(self, length: int) -> tuple[str, list[tuple[str, str]]]:
        """Status line and headers of this as a response, whose body has so many bytes."""
        own = {"Content-Type": _MEDIA_TYPE, "Content-Length": str(length)}
        headers = {"Date": formatdate(usegmt=True), **self.headers, **own}
        return f"{self.status.value} {self.status.phrase}", list(headers.items())

    def body(self, environment: WSGIEnvironment | None = None) -> bytes:
        """What it tells, as JSON: for whoever sent the request of this environment."""
        value = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            **self.members,
        }
        return to_json(value, environment)


def unforeseen() -> Problem:
    """What to answer for an error of ours: it has been logged, and is nobody else's business."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the controller's log says more")


def problem_of(error: Exception) -> Problem:
    """What to answer for an error; one that nobody foresaw is a 500 that tells nothing."""
    if isinstance(error, Problem):
        return error
    if not isinstance(error, ControllerError):
        log.error("unexpected error", exc_info=error)
        return unforeseen()
    status = next(
        _STATUS_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _STATUS_BY_ERROR
    )
    headers = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        wait = error.retry_after if isinstance(error, HostDown) else _RETRY_AFTER_SECONDS
        headers["Retry-After"] = str(ceil(wait))
    return Problem(status, str(error), _members(error), headers)


def _members(error: ControllerError) -> dict[str, object]:
    """What an error tells beside its words."""
    members: dict[str, object] = {}
    if isinstance(error, Unavailable) and error.unknown:
        members["outcome"] = "unknown"
    if error.host:
        members["host"] = error.host
    if error.since is not None:
        members["since"] = utc(error.since)
    if error.uuid:
        members["uuid"] = error.uuid
    if error.done:
        members["done"] = list(error.done)
    match error:
        case Away():
            members["hosts"] = list(error.hosts)
        case Ambiguous():
            members["urls"] = [
                machine_url(error.reference, uuid, host) for host, uuid in error.bearers
            ]
    return members


def error_page(status: str, **_: object) -> bytes:
    """What CherryPy asks for when it answers an error by itself, with the status to tell."""
    code = HTTPStatus(int(status[:3]))
    Problem(code, code.description or code.phrase).respond()
    body: bytes = cherrypy.serving.response.collapse_body()
    return body


def wants_html(environment: WSGIEnvironment | None) -> bool:
    """Whether the sender of a request would rather have HTML than JSON, as browsers would."""
    return environment is not None and prefers_html(environment.get("HTTP_ACCEPT", ""))


def to_json(value: object, environment: WSGIEnvironment | None) -> bytes:
    """JSON and a newline: indented for a browser, compact for a program."""
    return encoded(value, indent=2 if wants_html(environment) else None) + b"\n"


def encoded(value: object, *, indent: int | None = None) -> bytes:
    """JSON, on one line unless it is indented."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # A byte that is no UTF-8 travels as a lone surrogate, which JSON can only spell as an escape.
    return text.encode("utf-8", "backslashreplace")
