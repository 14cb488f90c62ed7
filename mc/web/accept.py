"""What a client would rather have: RFC 9110, section 12.5.1."""

import re

_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.ASCII)
# No client has as many.
_MOST_RANGES = 100


def prefers_html(accept: str) -> bool:
    """Whether an `Accept` would rather have HTML than JSON.

    CherryPy's own parser takes quadratic time.

    >>> prefers_html("text/html,application/xhtml+xml,*/*;q=0.8")
    True
    >>> prefers_html("text/html;q=0.5, application/json"), prefers_html("*/*"), prefers_html("")
    (False, False, False)
    """
    qualities: dict[str, float] = {}
    for element in accept.lower().split(",", _MOST_RANGES)[:_MOST_RANGES]:
        media_range, *parameters = (part.strip() for part in element.split(";"))
        qualities[media_range] = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() != "q":
                continue
            if not _QUALITY.fullmatch(value.strip()):
                return False
            qualities[media_range] = float(value)
    return _quality("text/html", qualities) > _quality("application/json", qualities)


def _quality(media_type: str, qualities: dict[str, float]) -> float:
    """How much a media type is wanted; the most precise range counts.

    >>> _quality("text/html", {"*/*": 1.0, "text/*": 0.5})
    0.5
    """
    ranges = (media_type, media_type.split("/")[0] + "/*", "*/*")
    return next((qualities[one] for one in ranges if one in qualities), 0.0)
