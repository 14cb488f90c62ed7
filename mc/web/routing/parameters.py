"""The parameters of an operation: what each takes, and how it is read from a request."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from reprlib import Repr
from typing import Any
from urllib.parse import parse_qsl

from mc.web.problems import Problem

# Of what a client sent, in an answer; no parameter is as long. And how many there may be.
_LONGEST_SHOWN, _MOST_PARAMETERS = 500, 100
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
# JSON's number (RFC 8259), of a length that any float has.
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{0,20})?(e[+-]?\d{1,3})?", re.ASCII | re.I)


@dataclass(frozen=True)
class Parameter:
    """A parameter, which a request gives in its query or in a JSON body.

    read: turns text or a JSON value into the value; ValueError says what it must be.
    schema: its JSON Schema; about: one line about it; example: a value, as JSON.
    """

    name: str
    about: str
    read: Callable[[Any], object]
    schema: dict[str, Any]
    example: object
    required: bool = False


def seconds(name: str, about: str, most: float) -> Parameter:
    """A duration between 0 and `most` seconds."""

    def read(value: object) -> float:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        # Compared before it is converted: a whole number may be too large for a float.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most:
            return float(value)
        raise ValueError(f"a number of seconds between 0 and {most:g}")

    schema = {"type": "number", "minimum": 0, "maximum": most}
    return Parameter(name, about, read, schema, example=min(60, most))


def boolean(name: str, about: str) -> Parameter:
    """True or false, spelled out: the text `False` must not count as true."""

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
        raise ValueError("true or false")

    return Parameter(name, about, read, {"type": "boolean"}, example=True)


def one_of(name: str, about: str, *allowed: str) -> Parameter:
    """A word out of a few, which has to be given."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise ValueError("one of " + ", ".join(allowed))

    schema = {"type": "string", "enum": list(allowed)}
    return Parameter(name, about, read, schema, example=allowed[0], required=True)


def read_parameters(wanted: Sequence[Parameter], environment: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the parameters of the request with this WSGI environment, by name.

    Raises a 400 `Problem` for one that is unknown, missing, given twice, or not what it must be.
    """
    given: dict[str, object] = {}
    for name, value in (*_query(environment), *_body(wanted, environment).items()):
        if name in given:
            raise _bad(name, value, "given once, in the query or in the body")
        given[name] = value
    by_name = {parameter.name: parameter for parameter in wanted}
    values = {name: _read(by_name, name, value) for name, value in given.items()}
    for name, parameter in by_name.items():
        if parameter.required and name not in values:
            raise Problem(HTTPStatus.BAD_REQUEST, f"a {name} is needed", {"parameter": name})
    return values


def _read(by_name: dict[str, Parameter], name: str, value: object) -> object:
    if name not in by_name:
        known = ", ".join(by_name) or "none"
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            f"there is no parameter {_represented(name)} here; there is: {known}",
        )
    try:
        return by_name[name].read(value)
    except ValueError as error:
        raise _bad(name, value, str(error)) from error


def _bad(name: str, value: object, wanted: str) -> Problem:
    return Problem(
        HTTPStatus.BAD_REQUEST,
        f"{_shown(name)} = {_represented(value)}: must be {wanted}",
        {"parameter": _shown(name)},
    )


def _shown(text: str) -> str:
    """So much of what a client sent as an answer repeats."""
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _represented(value: object) -> str:
    """Not by repr(): a client may nest a value deeper than that can go."""
    short = Repr()
    short.maxstring = short.maxlong = short.maxother = _LONGEST_SHOWN
    return short.repr(value)


def _query(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    query = environment["QUERY_STRING"]
    if not query:
        return []
    try:
        return parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except ValueError as error:
        raise Problem(
            HTTPStatus.BAD_REQUEST, f"the query cannot be decoded: {_shown(str(error))}"
        ) from error


def _body(wanted: Sequence[Parameter], environment: Mapping[str, Any]) -> dict[str, object]:
    """The JSON object in the request's body; an empty body is an empty object.

    Whatever its media type: `curl -d` calls everything a form, and JSON is taken all the same. And
    whatever the method: what somebody sends with a GET is meant, too.
    """
    raw = environment["wsgi.input"].read()
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        reason = f"the body is not JSON (forms are not taken): {_shown(str(error))}"
        raise Problem(
            HTTPStatus.BAD_REQUEST, f"{reason}; {_advice(wanted, environment)}"
        ) from error
    if not isinstance(value, dict):
        advice = _advice(wanted, environment)
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body is not a JSON object; {advice}")
    return value


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Raises ValueError where a name stands twice, of which either may be meant."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return value


def _advice(wanted: Sequence[Parameter], environment: Mapping[str, Any]) -> str:
    """How to send a body with these parameters."""
    if not wanted:
        return "there are no parameters here, so no body is needed"
    needed = [parameter for parameter in wanted if parameter.required] or wanted[:1]
    example = json.dumps({parameter.name: parameter.example for parameter in needed})
    return (
        f"send an object, such as by: curl -X {environment['REQUEST_METHOD']} "
        f"-H 'Content-Type: application/json' -d '{example}'"
    )
