"""HTTP Digest by hand (RFC 7616, section 3.4), to leave out or change what clients would not."""

import hashlib
import re

from tests.daemon import Answer


def nonce_of(answer: Answer) -> str:
    """The nonce in a challenge."""
    found = re.search(r'nonce="([^"]+)"', answer.headers["www-authenticate"])
    assert found, answer
    return found[1]


def authorization(
    uri: str,
    nonce: str,
    *,
    user: str = "admin",
    password: str = "secret",  # noqa: S107 (of the tests' own account)
    method: str = "GET",
    realm: str = "libvirt_mc",
    qop: str | None = "auth",
    algorithm: str = "MD5",
    signed: str | None = None,
) -> dict[str, str]:
    """The header for a request; `signed` is the URI in the proof, `uri` the one that it names."""
    secret = _md5(f"{user}:{realm}:{password}")
    request = _md5(f"{method}:{uri if signed is None else signed}")
    middle = f"{nonce}:00000001:abc:{qop}" if qop else nonce
    proof = _md5(f"{secret}:{middle}:{request}")
    extra = f', qop={qop}, nc=00000001, cnonce="abc"' if qop else ""
    return {
        "Authorization": f'Digest username="{user}", realm="{realm}", nonce="{nonce}", '
        f'uri="{uri}", algorithm={algorithm}, response="{proof}"{extra}'
    }


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
