#!/usr/bin/env python3
"""The daemon's entry point: the command line, the settings, and the run."""

import argparse
import logging
import sys
from pathlib import Path

from mc import __version__, settings
from mc.errors import SettingsError, VirshUnusable
from mc.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after an orderly end, 1 if it cannot serve, 2 if told the impossible."""
    options = _command_line().parse_args(arguments)
    try:
        chosen = settings.load(options.config, _overrides(options))
    except (SettingsError, OSError) as error:
        print(f"libvirt_mc: {error}", file=sys.stderr)
        return 2
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
    parser.add_argument("--backup-dir", metavar="DIR", type=Path, help="where backups of XML go")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error [info]")
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
        "boot.backup_dir": options.backup_dir and str(options.backup_dir.absolute()),
        "log.level": options.log_level,
    }
    return {key: value for key, value in given.items() if value is not None}


def _serve(chosen: Settings) -> int:
    logging.basicConfig(
        stream=sys.stderr,
        level=chosen.logging_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # Here, because CherryPy takes a third of a second to import and --version needs none of it.
    from mc.daemon import run

    try:
        run(chosen)
    except (VirshUnusable, OSError) as error:
        print(f"libvirt_mc: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
