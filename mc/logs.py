"""The log, whose lines hold what strangers sent, and are read at terminals."""

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class PrintableFormatter(logging.Formatter):
    """Spells out what is not printable.

    Line ends would forge lines, escape sequences (with C1 characters, too) change what is shown
    before and after, and characters that reverse the direction of writing show something else than
    there is. Of a traceback, line ends are kept.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        return "\n".join(map(printable, lines))


def printable(text: str) -> str:
    r"""A text on one line, of which each character can be seen.

    >>> printable("früh\x9b31m \u202egnp.exe\n")
    'früh\\x9b31m \\u202egnp.exe\\n'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def log_to_standard_error(level: int) -> None:
    """Have everything of this level and above logged there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])
