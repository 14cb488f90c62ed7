"""The log at a terminal: what strangers send is shown as it is, on one line."""

import logging

import pytest

from mc.logs import PrintableFormatter
from tests.daemon import Daemon

# A colour, C1's form of it, the right-to-left override, a line separator, a forged line, no UTF-8.
NASTY = ["\x1b[31m", "\x9b31m", "\u202e", "\u2066", "\u200f", "\u2028", "\n2026 INFO x", "\udc9b"]


@pytest.mark.parametrize("text", NASTY)
def test_message_is_on_one_printable_line(text: str) -> None:
    formatter = PrintableFormatter("%(levelname)s: %(message)s")
    for message, arguments in ((f"a {text} ü b", ()), ("a %s ü b", (text,))):
        record = logging.LogRecord("x", logging.INFO, "", 0, message, arguments, None)
        line = formatter.format(record)
        assert line.isprintable()
        assert line.startswith("INFO: a \\")
        assert line.endswith(" ü b")


@pytest.mark.parametrize("text", NASTY)
def test_traceback_keeps_its_lines_and_nothing_else(text: str) -> None:
    formatter = PrintableFormatter("%(levelname)s: %(message)s")
    try:
        raise ValueError(f"a {text} b")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), info)
    lines = formatter.format(record).split("\n")
    assert lines[1] == "Traceback (most recent call last):"
    assert all(line.isprintable() for line in lines)


def test_names_in_the_debug_log_are_printable() -> None:
    with Daemon("--connect", "test:///default") as daemon:
        start = daemon.log_size()
        for name in ("%1B%5B31m", "%C2%9B31m", "%E2%80%AE", "%E2%80%A8", "%9B", "%0A"):
            for path in (f"/service/{name}", f"/service/{name}/state_controller/force_off"):
                assert daemon.get(path).status == 404
        lines = daemon.log(start).split("\n")
    assert len(lines) > 5
    assert all(line.isprintable() for line in lines)
    assert any("\\u202e" in line for line in lines)
