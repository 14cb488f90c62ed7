"""The settings' file, in CherryPy's format: INI, each value a Python literal."""

import ast
import configparser
import os
import re
import stat
from pathlib import Path

from mc.errors import SettingsError, words

_LONGEST = 1 << 20
_SECTION = re.compile(r"global|/hosts/([a-z0-9][a-z0-9.-]{0,62})")
# configparser drops what stands there, and with it a limit, perhaps.
_BEHIND_A_SECTION = re.compile(r"^\[[^]\n]*\][ \t]*[^\s#;]", re.MULTILINE)


def read(path: Path) -> dict[str, dict[str, object]]:
    """The values in each section, by key: of `[/hosts/H]` under H, of `[global]` under "".

    Raises `SettingsError`, with the file's name and the line, for a file that cannot be read or is
    of another form.
    """
    # configparser would share a section [DEFAULT] with all others: here it is an unknown one.
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), default_section="no section has this name"
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    text = _text(path)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise _refused(path, _complaint(error)) from error
    behind = _BEHIND_A_SECTION.search(text)
    if behind:
        line = text.count("\n", 0, behind.start()) + 1
        raise _refused(path, f"line {line}: behind a section's name stand only comments")
    sections = {}
    for section in parser.sections():
        found = _SECTION.fullmatch(section)
        if not found:
            reason = (
                "only [global] and [/hosts/NAME], where a NAME has up to 63 of a-z, 0-9, '.', '-'"
            )
            raise _refused(path, f"there is no section [{section}], {reason}")
        host = found[1] or ""
        items = parser.items(section)
        sections[host] = {key: _literal(label(path, key, host), key, value) for key, value in items}
    return sections


def label(path: Path | None, key: str, host: str = "") -> str:
    """How a setting in the file is called, a host's with its section."""
    return f"{path}: [/hosts/{host}] {key}" if host else f"{path}: {key}"


def _refused(path: Path, reason: str) -> SettingsError:
    return SettingsError("--config", str(path), reason, "--config")


def _text(path: Path) -> str:
    try:
        # Where somebody has put a pipe, opening it would wait for who writes.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            os.set_blocking(file.fileno(), True)
            content = file.read(_LONGEST + 1)
            is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise _refused(path, words(error)) from error
    if is_pipe and not content:
        raise _refused(path, "it is a pipe, and nothing comes from it")
    if len(content) > _LONGEST:
        raise _refused(path, f"it is longer than {_LONGEST} bytes")
    try:
        # With the mark that some editors put at the beginning, too.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(path, f"line {line} is not UTF-8") from error


def _complaint(error: configparser.Error) -> str:
    """What is wrong with the form of a file, by its line."""
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno}: {error.line.strip()!r} stands before [global]"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"line {error.lineno}: [{error.section}] is there already"
    if isinstance(error, configparser.DuplicateOptionError):
        return f"line {error.lineno}: {error.option} is there already"
    if isinstance(error, configparser.ParsingError) and error.errors:
        # The line is in Python's quotes already, with its end.
        number, line = error.errors[0]
        shown = line.replace("\\n", "")
        return f"line {number}: {shown} is not KEY = VALUE"
    return str(error).replace("\n", " ")


def _literal(label: str, key: str, text: str) -> object:
    try:
        value: object = ast.literal_eval(text)
        # There are numbers that Python reads and does not write, and it must be told of them.
        repr(value)
        return value
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        reason = "must be a Python literal; text needs quotes"
        raise SettingsError(key, text, reason, label) from error
