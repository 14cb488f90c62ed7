"""Errors into responses, in one place: RFC 9457 problem details."""

import json
import logging
from dataclasses import dataclass, field
from http import HTTPStatus

import cherrypy

from mc.errors import (
    BackupFailed,
    Busy,
    CannotBoot,
    ControllerError,
    NoAnswer,
    NoPicture,
    NoSuchMachine,
    NotConfigurable,
    Refused,
    TooMany,
    Unavailable,
    WrongState,
)
from mc.web.accept import prefers_html

log = logging.getLogger(__name__)

_STATUS_BY_ERROR: dict[type[ControllerError], HTTPStatus] = {
    NoSuchMachine: HTTPStatus.NOT_FOUND,
    WrongState: HTTPStatus.CONFLICT,
    Busy: HTTPStatus.CONFLICT,
    CannotBoot: HTTPStatus.CONFLICT,
    NoPicture: HTTPStatus.CONFLICT,
    NotConfigurable: HTTPStatus.CONFLICT,
    BackupFailed: HTTPStatus.INSUFFICIENT_STORAGE,
    Refused: HTTPStatus.CONFLICT,
    TooMany: HTTPStatus.SERVICE_UNAVAILABLE,
    NoAnswer: HTTPStatus.GATEWAY_TIMEOUT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
_RETRY_AFTER_SECONDS = "1"


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
        """Make this the response to the request that is being served."""
        response = cherrypy.serving.response
        response.status = self.status.value
        response.headers.update(self.headers)
        response.headers["Content-Type"] = "application/problem+json"
        response.headers.pop("Content-Length", None)
        response.body = to_json(self.value())

    def value(self) -> dict[str, object]:
        """What it tells, as JSON."""
        return {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            **self.members,
        }


def problem_of(error: Exception) -> Problem:
    """What to answer for an error; one that nobody foresaw is a 500 that tells nothing."""
    if isinstance(error, Problem):
        return error
    if not isinstance(error, ControllerError):
        log.error("unexpected error", exc_info=error)
        return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the controller's log says more")
    status = next(
        _STATUS_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _STATUS_BY_ERROR
    )
    members: dict[str, object] = {}
    if isinstance(error, Unavailable) and error.unknown:
        members["outcome"] = "unknown"
    if error.uuid:
        members["uuid"] = error.uuid
    if error.done:
        members["done"] = list(error.done)
    retry = (
        {"Retry-After": _RETRY_AFTER_SECONDS} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    )
    return Problem(status, str(error), members, retry)


def error_page(status: str, **_: object) -> bytes:
    """What CherryPy asks for when it answers an error by itself, with the status to tell."""
    code = HTTPStatus(int(status[:3]))
    problem = Problem(code, code.description or code.phrase)
    problem.respond()
    return to_json(problem.value())


def wants_html() -> bool:
    """Whether the sender of the request would rather have HTML than JSON, as browsers would."""
    return prefers_html(cherrypy.serving.request.wsgi_environ.get("HTTP_ACCEPT", ""))


def to_json(value: object) -> bytes:
    """JSON and a newline: indented for a browser, compact for a program."""
    return encoded(value, indent=2 if wants_html() else None) + b"\n"


def encoded(value: object, *, indent: int | None = None) -> bytes:
    """JSON, on one line unless it is indented."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # A byte that is no UTF-8 travels as a lone surrogate, which JSON can only spell as an escape.
    return text.encode("utf-8", "backslashreplace")
