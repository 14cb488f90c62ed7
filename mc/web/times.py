"""Times as they are told: RFC 3339, in UTC."""

from datetime import UTC, datetime


def utc(seconds: float) -> str:
    """A time in seconds since 1970.

    >>> utc(1_800_000_000.9)
    '2027-01-15T08:00:00Z'
    """
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
