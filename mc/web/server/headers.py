"""The head of every answer, whoever makes it."""

from collections.abc import Iterable

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

EVERY_ANSWER = {
    # A GET may act, and what an answer tells is true only now.
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""An answer may have others of these names."""
SERVER = {"Server": "libvirt_http_mc"}
"""In place of the versions of CherryPy and Python."""


def head_of(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of an answer with these headers, and with those that every answer has.

    Raises ValueError if one holds a line end, or what is not Latin-1.
    """
    fields = EVERY_ANSWER | dict(headers) | SERVER
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    text = "\r\n".join([*lines, "", ""])
    if text.count("\r") != len(lines) + 1 or text.count("\n") != len(lines) + 1:
        raise ValueError(f"a header of an answer holds a line end: {fields!r}")
    return text.encode("latin-1")
