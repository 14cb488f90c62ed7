"""Arguments of a virsh command, as virsh's shell reads them from its standard input."""

import re
from collections.abc import Iterable

_PLAIN = re.compile(rb"[A-Za-z0-9_.,:=+/@-]+")
_CONTROL = re.compile(rb"[\x01-\x1f\x7f]")


def quote(argument: str) -> bytes:
    r"""One argument for virsh's standard input, which runs through readline and virsh's parser.

    Between single quotes virsh's parser takes everything literally; readline takes a control
    byte literally (a TAB would complete, a CR end the line) after a ^V, 0x16.

    >>> quote("vm1")
    b'vm1'
    >>> quote("a b;c")
    b"'a b;c'"
    >>> quote("it's")
    b'\'it\'"\'"\'s\''
    >>> quote("tab\there")
    b"'tab\x16\there'"
    >>> quote("")
    b"''"

    Raises ValueError for what cannot be sent: NUL, which ends a C string, and newline, which no
    name in libvirt holds.

    >>> quote("a\nb")
    Traceback (most recent call last):
    ValueError: virsh takes no NUL and no newline in an argument: 'a\nb'
    """
    raw = encode(argument)
    if _PLAIN.fullmatch(raw):
        return raw
    if b"\0" in raw or b"\n" in raw:
        raise ValueError(f"virsh takes no NUL and no newline in an argument: {argument!r}")
    literal = _CONTROL.sub(rb"\x16\g<0>".replace(rb"\x16", b"\x16"), raw)
    return b"'" + literal.replace(b"'", b"'\"'\"'") + b"'"


def command_line(arguments: Iterable[str]) -> bytes:
    """A whole command, ready for virsh's standard input.

    >>> command_line(["domstate", "--domain", "my vm", "--reason"])
    b"domstate --domain 'my vm' --reason"
    """
    return b" ".join(quote(argument) for argument in arguments)


def encode(text: str) -> bytes:
    """Text as libvirt's bytes: UTF-8; bytes that were none are carried as lone surrogates."""
    return text.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    """The reverse of `encode`."""
    return raw.decode("utf-8", "surrogateescape")
