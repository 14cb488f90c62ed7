"""What a resource does: each of its methods declares itself.

The dispatcher reads a request's parameters by these declarations, and `/openapi.json` is made from
them, so that what is documented is what is done.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from mc.web.routing.parameters import Parameter

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")

Handler = TypeVar("Handler", bound=Callable[..., object])


@dataclass(frozen=True)
class Operation:
    """A method of a resource.

    answer: JSON Schema of what it returns. acts: whether it changes anything, so that a foreign
    page must not cause it. errors: what it may answer beside what every operation may.
    other_media_types: what it answers as well, to those who ask for it, as a page to a browser.
    """

    summary: str
    answer: dict[str, Any]
    parameters: Sequence[Parameter] = ()
    acts: bool = False
    errors: Sequence[HTTPStatus] = ()
    media_type: str = "application/json"
    other_media_types: Sequence[str] = ()


@dataclass(frozen=True)
class Content:
    """An answer that is no JSON."""

    media_type: str
    data: bytes


@dataclass(frozen=True)
class Stream:
    """An answer that goes on: each chunk is sent as it comes."""

    media_type: str
    chunks: Iterator[bytes] | Iterable[bytes]


def operation(
    summary: str,
    *,
    answer: dict[str, Any],
    parameters: Sequence[Parameter] = (),
    acts: bool = False,
    errors: Sequence[HTTPStatus] = (),
    media_type: str = "application/json",
    other_media_types: Sequence[str] = (),
) -> Callable[[Handler], Handler]:
    """Declare a method of a resource: see `Operation`."""
    declared = Operation(summary, answer, parameters, acts, errors, media_type, other_media_types)

    def declare(handler: Handler) -> Handler:
        handler.operation = declared  # type: ignore[attr-defined]
        return handler

    return declare


class Resource:
    """Answers HTTP methods by methods of the same name.

    They take the URL's variables and the declared parameters, and return what is to be sent: JSON,
    `Content` or `Stream`. HEAD is answered where it is named: where GET acts, HEAD must not.
    """

    public = False
    """Whether it answers those who are no users as well."""
    documented = True
    """Whether `/openapi.json` tells of it: it does, where there is anything to be had."""

    def methods(self) -> list[str]:
        return [name for name in METHODS if hasattr(self, name)] + ["OPTIONS"]

    def operation(self, method: str) -> Operation:
        declared: Operation = getattr(self, method).operation
        return declared


@dataclass(frozen=True)
class Route:
    """A URL, such as `/service/{machine}/boot`, and the resource that answers there."""

    template: str
    resource: Resource

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(filter(None, self.template.split("/")))

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the segments that may be anything."""
        return tuple(part.strip("{}") for part in self.segments if part.startswith("{"))
