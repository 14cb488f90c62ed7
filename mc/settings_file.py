"""The settings' file, in CherryPy's format: INI, each value a Python literal."""

import ast
import configparser
import os
import stat
from pathlib import Path

from mc.errors import SettingsError, words

_LONGEST = 1 << 20


def read(path: Path) -> dict[str, object]:
    """The values in the section `[global]`, by key.

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
    for section in parser.sections():
        if section != "global":
            raise _refused(path, f"there is no section [{section}], only [global]")
    if not parser.has_section("global"):
        return {}
    return {key: _literal(path, key, text) for key, text in parser.items("global")}


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


def _literal(path: Path, key: str, text: str) -> object:
    try:
        value: object = ast.literal_eval(text)
        # There are numbers that Python reads and does not write, and it must be told of them.
        repr(value)
        return value
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        reason = "must be a Python literal; text needs quotes"
        raise SettingsError(key, text, reason, f"{path}: {key}") from error
