"""Arguments of a virsh command, as virsh's shell reads them from its standard input."""

import re
from collections.abc import Iterable

_PLAIN = re.compile(rb"[A-Za-z0-9_.,:=+/@-]+")
_KEY = re.compile(rb"[\x00-\x1f\x7f]")


def quote(argument: str) -> bytes:
    r"""One argument for virsh's standard input, which runs through readline and virsh's parser.

    Between single quotes virsh's parser takes everything literally.

    >>> quote("vm1")
    b'vm1'
    >>> quote("a b;c")
    b"'a b;c'"
    >>> quote("it's")
    b'\'it\'"\'"\'s\''
    >>> quote("")
    b"''"

    Raises ValueError for a control byte: readline takes it for a key, and a byte above 0x7f that
    follows one for another, of which some end the line.

    >>> quote("a\tb")
    Traceback (most recent call last):
    ValueError: virsh cannot be given control bytes: 'a\tb'
    """
    raw = encode(argument)
    if _PLAIN.fullmatch(raw):
        return raw
    if _KEY.search(raw):
        raise ValueError(f"virsh cannot be given control bytes: {argument!r}")
    return b"'" + raw.replace(b"'", b"'\"'\"'") + b"'"


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
