"""The parameters of an action, from the query and from a JSON body."""

import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import cherrypy

from mc.web.problems import Problem

Reader = Callable[[Any], object]
"""Turns a parameter's text or JSON value into its value; ValueError says what it must be."""

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_NUMBER = re.compile(r"\d{1,9}(\.\d{0,9})?", re.ASCII)


def seconds(most: float) -> Reader:
    """A reader of a duration between 0 and `most` seconds."""

    def read(value: object) -> float:
        number = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        if not number or not _NUMBER.fullmatch(str(value)) or float(str(value)) > most:
            raise ValueError(f"a number of seconds between 0 and {most:g}")
        return float(str(value))

    return read


def boolean(value: object) -> bool:
    """True or false, spelled out: the text `False` must not count as true."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise ValueError("true or false")


def one_of(*allowed: str) -> Reader:
    """A reader of a word out of a few."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise ValueError("one of " + ", ".join(allowed))

    return read


def parameters(readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The parameters of the request being served, each read by the reader of its name.

    Raises a 400 `Problem` for one that is unknown, given twice, or not what it must be.
    """
    given = dict(cherrypy.serving.request.params)
    for name, value in _body().items():
        if name in given:
            raise _bad(name, value, "given once, in the query or in the body")
        given[name] = value
    return {name: _read(readers, name, value) for name, value in given.items()}


def _read(readers: Mapping[str, Reader], name: str, value: object) -> object:
    if name not in readers:
        known = ", ".join(readers) or "none"
        raise Problem(
            HTTPStatus.BAD_REQUEST, f"there is no parameter {name!r} here; there is: {known}"
        )
    try:
        return readers[name](value)
    except ValueError as error:
        raise _bad(name, value, str(error)) from error


def _bad(name: str, value: object, wanted: str) -> Problem:
    return Problem(
        HTTPStatus.BAD_REQUEST, f"{name} = {value!r}: must be {wanted}", {"parameter": name}
    )


def _body() -> dict[str, object]:
    """The JSON object in the request's body; an empty body is an empty object.

    Whatever its media type: `curl -d` calls everything a form.
    """
    request = cherrypy.serving.request
    if request.method not in request.methods_with_bodies:
        return {}
    try:
        raw = request.rfile.read()
    except TimeoutError as error:
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from error
    if len(raw) < int(request.headers.get("Content-Length", 0)):
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is shorter than its Content-Length")
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    return value
