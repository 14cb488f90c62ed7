#!/usr/bin/env python3
"""The daemon's entry point: the command line, the settings, and the run."""

import argparse
import getpass
import sys
from pathlib import Path

from mc import __version__, settings
from mc.errors import BadAccount, SettingsError, UsersUnusable, VirshUnusable
from mc.logs import log_to_standard_error
from mc.settings import Settings
from mc.users import add_user


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after an orderly end, 1 if it cannot serve, 2 if told the impossible."""
    options = _command_line().parse_args(arguments)
    try:
        chosen = settings.load(options.config, _overrides(options))
    except (SettingsError, OSError) as error:
        print(f"libvirt_mc: {error}", file=sys.stderr)
        return 2
    if options.add_user is not None:
        return _add_user(options.add_user, chosen)
    if options.check_config:
        print("libvirt_mc: the settings are valid")
        return 0
    return _serve(chosen)


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="libvirt_mc.py",
        description="A management controller for libvirt's virtual machines, over HTTP.",
        epilog="Every option is also a setting in the file; the command line wins.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings to read")
    parser.add_argument("--connect", metavar="URI", help="libvirt to manage [qemu:///system]")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", type=_address, help="where to serve [127.0.0.1:9001]"
    )
    parser.add_argument("--users", metavar="FILE", type=Path, help="accounts, by htdigest")
    parser.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate, for HTTPS")
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="its private key")
    parser.add_argument("--backup-dir", metavar="DIR", type=Path, help="where backups of XML go")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error [info]")
    parser.add_argument(
        "--add-user",
        metavar="NAME",
        help="add an account to the users file or change its password, and exit",
    )
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    parser.add_argument("--version", action="version", version=f"libvirt_mc {__version__}")
    return parser


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
        "auth.users_file": _absolute(options.users),
        "server.ssl_certificate": _absolute(options.tls_cert),
        "server.ssl_private_key": _absolute(options.tls_key),
        "boot.backup_dir": _absolute(options.backup_dir),
        "log.level": options.log_level,
    }
    return {key: value for key, value in given.items() if value is not None}


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _add_user(name: str, chosen: Settings) -> int:
    if not chosen.users_file:
        print("libvirt_mc: --add-user needs --users FILE or auth.users_file", file=sys.stderr)
        return 2
    try:
        add_user(Path(chosen.users_file), name, _password())
    except (BadAccount, UsersUnusable, OSError, UnicodeDecodeError) as error:
        print(f"libvirt_mc: {error}", file=sys.stderr)
        return 1
    except (EOFError, KeyboardInterrupt):
        print("\nlibvirt_mc: no account was changed", file=sys.stderr)
        return 1
    print(f"libvirt_mc: {chosen.users_file} has an account for {name}")
    return 0


def _password() -> str:
    """Asked for twice at a terminal; else the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise BadAccount("the two passwords differ")
    return password


def _serve(chosen: Settings) -> int:
    log_to_standard_error(chosen.logging_level)
    # Here, because CherryPy takes a third of a second to import and --version needs none of it.
    from mc.daemon import run

    try:
        run(chosen)
    except (VirshUnusable, UsersUnusable, OSError) as error:
        print(f"libvirt_mc: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
