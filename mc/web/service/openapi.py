"""`/openapi.json`: OpenAPI 3.1, made from the declarations by which requests are answered."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from http import HTTPStatus
from typing import Any

from mc import __version__
from mc.web.routing.operation import Operation, Resource, Route, operation
from mc.web.routing.parameters import Parameter
from mc.web.service.schemas import PROBLEM, VARIABLES

URL = "/openapi.json"
# Those whose parameters are documented as a body; it is read whatever the method.
_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
_DESCRIPTION = """\
A machine is called by its name, percent-encoded, or by its UUID. Verbs are done by GET as well as
by POST; HEAD never acts. A slash too many in a path means nothing. Every URL answers OPTIONS with
the methods that it allows, and 405 to others. Errors are problem details (RFC 9457) with libvirt's
own words.
"""
_SCHEMES = {
    "digest": {"type": "http", "scheme": "digest"},
    "basic": {"type": "http", "scheme": "basic", "description": "over TLS only"},
}
_ERRORS = {
    HTTPStatus.BAD_REQUEST: "a parameter, a header or the body is not as it must be",
    HTTPStatus.UNAUTHORIZED: "a user is needed, with the right password",
    HTTPStatus.FORBIDDEN: "a page of another host, a prefetch or a reader must not act",
    HTTPStatus.NOT_FOUND: "there is no such machine",
    HTTPStatus.REQUEST_TIMEOUT: "the request did not come in time",
    HTTPStatus.CONFLICT: "not in this state, refused by libvirt, or busy",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is too large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "the URL is too long",
    HTTPStatus.MISDIRECTED_REQUEST: "the Host is no name of this one",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the header fields are too large or too many",
    HTTPStatus.NOT_IMPLEMENTED: "the only Transfer-Encoding here is chunked",
    HTTPStatus.SERVICE_UNAVAILABLE: "libvirt or the users file is away, or too much is under way",
    HTTPStatus.GATEWAY_TIMEOUT: "libvirt did not answer in time",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "HTTP/1.0 and HTTP/1.1 are spoken here",
    HTTPStatus.INSUFFICIENT_STORAGE: "no backup could be written, so nothing was changed",
}
_HEADERS = {
    HTTPStatus.UNAUTHORIZED: "WWW-Authenticate",
    HTTPStatus.SERVICE_UNAVAILABLE: "Retry-After",
}
# What may come before an operation is even looked for.
_ALWAYS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
)
# While the users file cannot be used, nobody is let in.
_NO_USER = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.SERVICE_UNAVAILABLE,
)

Json = dict[str, Any]


class Document(Resource):
    """Tells of these routes, by the declarations of their resources."""

    def __init__(self, routes: Iterable[Route], authentication: Sequence[str]) -> None:
        self._routes = routes
        self._authentication = authentication

    @operation("What there is to call, as OpenAPI 3.1", answer={"type": "object"})
    def GET(self) -> object:
        return self._document

    HEAD = GET

    @cached_property
    def _document(self) -> dict[str, Any]:
        return document(self._routes, self._authentication)


def with_document(routes: Iterable[Route], authentication: Sequence[str] = ()) -> list[Route]:
    """The routes, and the one of the document that tells of them all, itself included.

    `authentication` are the HTTP schemes (`digest`, `basic`) by which a user is known, if one is
    needed.
    """
    every = [*routes]
    every.append(Route(URL, Document(every, authentication)))
    return every


def document(routes: Iterable[Route], authentication: Sequence[str] = ()) -> Json:
    """An OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0) that tells of these routes."""
    schemas = _Schemas()
    documented = [route for route in routes if route.resource.documented]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "libvirt_http_mc",
            "summary": "A management controller for libvirt's virtual machines",
            "description": _DESCRIPTION,
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{scheme: []} for scheme in authentication],
        "paths": {route.template: _path(route, schemas, authentication) for route in documented},
        "components": {
            "securitySchemes": _SCHEMES,
            "responses": {_key(status): _problem(status, schemas) for status in _ERRORS},
            "schemas": schemas.by_title,
        },
    }


class _Schemas:
    """JSON Schemas that have a title: each is told once, under this title, and referred to."""

    def __init__(self) -> None:
        self.by_title: Json = {}

    def refer(self, schema: Any) -> Any:
        """The schema, with a reference wherever one with a title stands in it."""
        if isinstance(schema, list):
            return [self.refer(one) for one in schema]
        if not isinstance(schema, dict):
            return schema
        told = {key: self.refer(value) for key, value in schema.items()}
        title = schema.get("title")
        # In `properties`, a member may be called `title`.
        if not isinstance(title, str):
            return told
        self.by_title[title] = told
        return {"$ref": f"#/components/schemas/{title}"}


def _path(route: Route, schemas: _Schemas, authentication: Sequence[str]) -> Json:
    methods = [method for method in route.resource.methods() if method != "OPTIONS"]
    variables = [
        {"name": name, "in": "path", "required": True} | VARIABLES[name] for name in route.variables
    ]
    told = {
        method.lower(): _operation(route, method, schemas, authentication) for method in methods
    }
    return {"parameters": variables} | told


def _operation(route: Route, method: str, schemas: _Schemas, authentication: Sequence[str]) -> Json:
    declared = route.resource.operation(method)
    told: Json = {
        "operationId": operation_id(method, route.template),
        "summary": declared.summary,
    }
    if declared.parameters:
        told |= (_body if method in _METHODS_WITH_BODY else _query)(declared.parameters)
    if route.resource.public:
        told["security"] = []
        authentication = ()
    answer: Json = {"description": "as asked"}
    if method != "HEAD":
        answer["content"] = _content(declared, schemas)
    told["responses"] = {"200": answer} | {
        str(status.value): _bare_problem(status) if method == "HEAD" else _reference(status)
        for status in sorted(_errors(declared, authentication))
    }
    return told


def operation_id(method: str, template: str) -> str:
    """A name for a method of a URL.

    >>> operation_id("PUT", "/service/{machine}/boot")
    'put_service_by_machine_boot'
    """
    words = re.findall(r"\w+", template.replace("{", "by/"))
    return "_".join([method.lower(), *words])


def _query(parameters: Sequence[Parameter]) -> Json:
    told = [
        {
            "name": parameter.name,
            "in": "query",
            "description": parameter.about,
            "required": parameter.required,
            "schema": parameter.schema,
        }
        for parameter in parameters
    ]
    return {"parameters": told}


def _body(parameters: Sequence[Parameter]) -> Json:
    needed = [parameter.name for parameter in parameters if parameter.required]
    schema = {
        "type": "object",
        "properties": {
            parameter.name: {**parameter.schema, "description": parameter.about}
            for parameter in parameters
        },
        "required": needed,
        "additionalProperties": False,
    }
    return {
        # No parameters in the query are told of: OpenAPI cannot say "here or there, but not both".
        "description": "Each parameter may stand in the query instead; 400 if it stands in both.",
        "requestBody": {
            "required": bool(needed),
            "content": {"application/json": {"schema": schema}},
        },
    }


def _content(declared: Operation, schemas: _Schemas) -> Json:
    others: Json = {media_type: {} for media_type in declared.other_media_types}
    return {declared.media_type: {"schema": schemas.refer(declared.answer)}} | others


def _errors(declared: Operation, authentication: Sequence[str]) -> Iterable[HTTPStatus]:
    """Every status that is an error and that the operation may answer."""
    errors = {*_ALWAYS, *declared.errors}
    if declared.acts:
        errors.add(HTTPStatus.FORBIDDEN)
    if authentication:
        errors |= {*_NO_USER}
    return errors


def _key(status: HTTPStatus) -> str:
    return f"Problem{status.value}"


def _reference(status: HTTPStatus) -> Json:
    return {"$ref": f"#/components/responses/{_key(status)}"}


def _problem(status: HTTPStatus, schemas: _Schemas) -> Json:
    content = {"application/problem+json": {"schema": schemas.refer(PROBLEM)}}
    return _bare_problem(status) | {"content": content}


def _bare_problem(status: HTTPStatus) -> Json:
    """A problem without content, as HEAD gets it."""
    told: Json = {"description": _ERRORS[status]}
    if status in _HEADERS:
        told["headers"] = {_HEADERS[status]: {"schema": {"type": "string"}}}
    return told
