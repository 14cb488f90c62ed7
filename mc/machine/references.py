"""What machines are called by: names and UUIDs, and what virsh takes them for.

virsh tries a reference as a number first (strtol: blanks and a sign may precede), then as a UUID
(hyphens and blanks may stand anywhere), then as a name.
"""

import re

_LIKE_AN_ID = re.compile(r"\s*[+-]?\d+", re.ASCII)
_LIKE_A_UUID = re.compile(r"[\s-]*([0-9a-f][\s-]*){32}", re.ASCII | re.I)
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.I)
# What cannot be given to virsh as a name.
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f]")
# libvirt takes no such name, and virsh no such argument.
_IMPOSSIBLE = re.compile(r"[\0\n/]")
_LONGEST = 4096


def is_possible(reference: str) -> bool:
    """Whether a machine could have this name or UUID at all."""
    return not _IMPOSSIBLE.search(reference) and 0 < len(reference) <= _LONGEST


def is_uuid(reference: str) -> bool:
    """Whether virsh takes it for a UUID, if there is a machine of that; else for a name."""
    return bool(_CANONICAL_UUID.fullmatch(reference))


def is_like_uuid(reference: str) -> bool:
    """Whether it is a UUID in any form."""
    return bool(_LIKE_A_UUID.fullmatch(reference))


def is_plain(name: str) -> bool:
    """Whether virsh takes it for a name, and nothing else."""
    return not (_LIKE_AN_ID.fullmatch(name) or is_like_uuid(name) or _UNSPEAKABLE.search(name))


def digits(uuid: str) -> str:
    """A UUID as it is compared: hyphens and case do not count."""
    return uuid.replace("-", "").lower()
