"""The command line: the options, the settings, and the run."""

import argparse
import getpass
import importlib
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from mc import __version__, settings
from mc.errors import BadAccount, SettingsError, Unusable, words
from mc.logs import log_to_standard_error, printable
from mc.settings import Settings
from mc.users import add_user

# What is imported, what pip calls it, and what Debian does.
_PACKAGES = (
    ("cherrypy", "CherryPy", "python3-cherrypy3"),
    ("lxml", "lxml", "python3-lxml"),
    ("prometheus_client", "prometheus_client", "python3-prometheus-client"),
)
_EXAMPLES = """\
Every option is also a setting in the file; the command line wins. Examples:

  libvirt_mc.py --connect qemu:///system --backup-dir ~/backups
      serve the machines of this host at http://127.0.0.1:9001, for this host alone
  libvirt_mc.py --config /etc/libvirt_mc/libvirt_mc.conf --check-config
      say whether it could serve by these settings, and change nothing
"""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after an orderly end, 1 if it cannot serve, 2 if told the impossible."""
    if sys.stdout is not None:
        # A path may hold bytes that are no text, or characters that the terminal has not.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _run(_command_line().parse_args(arguments))
    except KeyboardInterrupt:
        # Before there was anything to end in an orderly way.
        return 130


def _run(options: argparse.Namespace) -> int:
    try:
        chosen = settings.load(options.config, _overrides(options))
    except SettingsError as error:
        _complain(str(error))
        return 2
    if options.add_user is not None:
        return _add_user(options.add_user, chosen)
    if options.check_config:
        return _check(chosen)
    return _serve(chosen)


def _say(text: str) -> None:
    # Whoever reads it may have read enough.
    with suppress(BrokenPipeError):
        print(f"libvirt_mc: {printable(text)}", flush=True)


def _complain(text: str) -> None:
    print(f"libvirt_mc: {printable(text)}", file=sys.stderr, flush=True)


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="libvirt_mc.py",
        description="A management controller for libvirt's virtual machines, over HTTP.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", type=_path, help="settings to read")
    parser.add_argument("--connect", metavar="URI", help="libvirt to manage [qemu:///system]")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", type=_address, help="where to serve [127.0.0.1:9001]"
    )
    parser.add_argument("--users", metavar="FILE", type=_path, help="accounts, by htdigest")
    parser.add_argument("--tls-cert", metavar="FILE", type=_path, help="certificate, for HTTPS")
    parser.add_argument("--tls-key", metavar="FILE", type=_path, help="its private key")
    parser.add_argument(
        "--backup-dir",
        metavar="DIR",
        type=_path,
        help="where backups of XML go [/var/lib/libvirt_mc/backups]",
    )
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error [info]")
    parser.add_argument(
        "--add-user",
        metavar="NAME",
        help="add an account to the users file or change its password, and exit",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="check the settings, and what they name, and exit",
    )
    parser.add_argument("--version", action="version", version=f"libvirt_mc {__version__}")
    return parser


def _path(text: str) -> Path:
    """A path; an empty text, as of a variable that is not set, would be the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty, and no path")
    return Path(text)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _overrides(options: argparse.Namespace) -> dict[str, object]:
    """The settings that the command line gives, by key."""
    host, port = options.listen or (None, None)
    given = {
        "server.socket_host": host,
        "server.socket_port": port,
        "libvirt.uri": options.connect,
        "auth.users_file": _absolute("--users", options.users),
        "server.ssl_certificate": _absolute("--tls-cert", options.tls_cert),
        "server.ssl_private_key": _absolute("--tls-key", options.tls_key),
        "boot.backup_dir": _absolute("--backup-dir", options.backup_dir),
        "log.level": options.log_level,
    }
    return {key: value for key, value in given.items() if value is not None}


def _absolute(option: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return str(path.absolute())
    except OSError as error:
        reason = f"where is that? The working directory: {words(error)}"
        raise SettingsError(option, str(path), reason, option) from error


def _add_user(name: str, chosen: Settings) -> int:
    if not chosen.users_file:
        _complain("--add-user needs --users FILE or auth.users_file")
        return 2
    label = chosen.label("auth.users_file")
    try:
        add_user(Path(chosen.users_file), name, _password())
    except BadAccount as error:
        _complain(f"--add-user: {error}")
        return 1
    except Unusable as error:
        _complain(f"{label}: {error}")
        return 1
    except OSError as error:
        _complain(f"{label}: {chosen.users_file} cannot be written: {words(error)}")
        return 1
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        _complain("no account was changed")
        return 1
    _say(f"{chosen.users_file} has an account for {name}")
    return 0


def _password() -> str:
    """Asked for twice at a terminal; else the first line of standard input."""
    if sys.stdin is None:
        raise BadAccount("there is no standard input to read a password from")
    try:
        if not sys.stdin.isatty():
            return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
        password = getpass.getpass("Password: ")
        again = getpass.getpass("Again: ")
    except UnicodeDecodeError as error:
        raise BadAccount(f"the password is not text in {error.encoding}") from error
    if again != password:
        raise BadAccount("the two passwords differ")
    return password


def _lacking() -> str | None:
    """Which of Python's packages are not there, and how to get them."""
    lacking = {}
    for module, pip, debian in _PACKAGES:
        try:
            importlib.import_module(module)
        except ImportError as error:
            # It may be there, and something that it needs be missing.
            lacking[debian] = pip if error.name == module else f"{pip} ({error})"
    if not lacking:
        return None
    names = ", ".join(lacking.values())
    folder = Path(__file__).parent.parent
    python = folder / ".venv" / "bin" / "python"
    if os.access(python, os.X_OK) and Path(sys.prefix) != python.parent.parent:
        return f"{sys.executable} lacks {names}: start it by {python}"
    return (
        f"{sys.executable} lacks {names}: `python3 -m venv {folder}/.venv && "
        f"{folder}/.venv/bin/pip install -r {folder}/requirements.txt` installs what is needed for "
        f"{python} libvirt_mc.py; on Debian, `apt-get install {' '.join(lacking)}` does for python3"
    )


def _check(chosen: Settings) -> int:
    """What --check-config says: a line for each thing that it looked at."""
    # Here, because what the log would say is among the findings.
    logging.basicConfig(handlers=[logging.NullHandler()])
    from mc.checks import findings

    _say("the settings are valid")
    lacking = _lacking()
    all_passed = not lacking
    if lacking:
        _complain(f"failed: {lacking}")
    for finding in findings(chosen, with_packages=not lacking):
        passed = finding.mark != "failed"
        all_passed = all_passed and passed
        tell = _say if passed else _complain
        tell(f"{finding.mark}: {finding.text}")
    return 0 if all_passed else 1


def _serve(chosen: Settings) -> int:
    log_to_standard_error(chosen.logging_level)
    # Here, because CherryPy takes a third of a second to import and --version needs none of it.
    lacking = _lacking()
    if lacking:
        _complain(lacking)
        return 1
    from mc.daemon import run

    try:
        run(chosen)
    except Unusable as error:
        _complain(f"{chosen.label(error.key, error.host or '')}: {error}")
        return 1
    except OSError as error:
        _complain(": ".join(filter(None, (words(error), error.filename))))
        return 1
    return 0
