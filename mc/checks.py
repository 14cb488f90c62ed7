"""What will not work, told before anybody finds it out: at the start, and by `--check-config`.

What is read once only, at the start, is an error there: the address, the certificate, virsh, and
the accounts, without which nobody would get in. What may come later, or come back, is a warning:
libvirt, and the backup folder.
"""

import difflib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from mc.boot.backup import Backups
from mc.errors import NoAnswer, Unreachable, Unusable
from mc.settings import Settings
from mc.users import Users
from mc.virsh import check_binary
from mc.virsh.session import Session

log = logging.getLogger(__name__)

# Seconds for what has no deadline of its own, such as a folder on a network.
_PATIENCE = 15.0
_END = 1.0
# Those of libvirt 9 to 11 (https://libvirt.org/drivers.html), to tell a slip from a failure.
_DRIVERS = (
    *("bhyve", "ch", "esx", "gsx", "hyperv", "interface", "lxc", "network", "nodedev", "nwfilter"),
    *("openvz", "qemu", "remote", "secret", "storage", "test", "vbox", "vmwarefusion"),
    *("vmwareplayer", "vmwarews", "vpx", "vz", "xen"),
)

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What became of one check; the text begins with what the setting is called."""

    passed: bool
    text: str


def findings(settings: Settings, *, with_packages: bool) -> Iterator[Finding]:
    """What `--check-config` finds, one by one. Nothing is changed, and every wait has an end.

    `with_packages` says whether there are those of Python's without which nothing is served.
    """

    def found(key: str, look: Callable[[], str], seconds: float = _PATIENCE) -> Finding:
        try:
            return Finding(True, f"{settings.label(key)}: {_within(seconds, look)}")
        except Unusable as error:
            return Finding(False, f"{settings.label(error.key)}: {error}")
        except TimeoutError:
            return Finding(False, f"{settings.label(key)}: no answer within {seconds:g} s")

    if with_packages and settings.certificate:
        yield found("server.ssl_certificate", lambda: _tls(settings))
    if with_packages:
        yield found("server.socket_port", lambda: _address(settings))
    if settings.users_file:
        yield found("auth.users_file", lambda: _accounts(settings))
    virsh = found("libvirt.virsh", lambda: f"version {check_binary(settings.virsh)}")
    yield virsh
    if virsh.passed:
        # The deadline is that of the connection, and this one is for what comes around it.
        seconds = settings.read_seconds + _PATIENCE
        yield found("libvirt.uri", lambda: _libvirt(settings), seconds)
    else:
        yield Finding(False, f"{settings.label('libvirt.uri')}: not tried, for want of virsh")
    yield found("boot.backup_dir", lambda: _backups(settings))


def _tls(settings: Settings) -> str:
    # Here, because it imports CherryPy, which may be missing.
    from mc.web.serve import tls_context

    tls_context(settings.certificate, settings.private_key)
    return f"{settings.certificate}, with the key {settings.private_key}"


def _address(settings: Settings) -> str:
    from mc.web.serve import bound

    address = f"{settings.host}, port {settings.port},"
    try:
        # Nothing listens there meanwhile.
        bound(settings.host, settings.port).close()
    except Unusable as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            return f"{address} is taken now: by this controller, if it runs"
        raise
    return f"{address} is free"


def _accounts(settings: Settings) -> str:
    names = Users(Path(settings.users_file)).names()
    strangers = sorted(set(settings.readers) - names)
    if strangers:
        raise Unusable("auth.readers", f"there is no user {', '.join(strangers)}")
    return f"{settings.users_file}, accounts: {len(names)}"


def _libvirt(settings: Settings) -> str:
    trouble = LibvirtOnce(settings).trouble()
    if trouble:
        raise Unusable("libvirt.uri", trouble)
    return f"{settings.uri} answers"


def _backups(settings: Settings) -> str:
    trouble = Backups(settings.backups, settings.backups_kept).trouble()
    if trouble:
        raise Unusable("boot.backup_dir", trouble)
    is_there = os.path.lexists(settings.backups)
    return f"{settings.backups} {'can be written' if is_there else 'will be made when needed'}"


def _within(seconds: float, look: Callable[[], T]) -> T:
    """What a function returns or raises; `TimeoutError` if it has not after so many seconds.

    It then goes on in its thread, which the end of the process does not wait for.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(look())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result(seconds)


class LibvirtOnce:
    """One connection to libvirt by a virsh of its own, to see whether there is one to be had."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._session: Session | None = None
        self._is_closed = False

    def trouble(self) -> str | None:
        """Why libvirt cannot be reached; None if it can, or if this was closed meanwhile.

        It takes as long as the daemon gives a connection: libvirt.read_seconds.
        """
        settings = self._settings
        deadline = time.monotonic() + settings.read_seconds
        try:
            with self._lock:
                if self._is_closed:
                    return None
                self._session = session = Session(settings.virsh, settings.uri)
            try:
                session.greet(deadline)
            finally:
                with self._lock:
                    self._session = None
                session.close()
        except Unreachable as error:
            words = str(error)
        except NoAnswer:
            words = f"no answer within {settings.read_seconds:g} s (libvirt.read_seconds)"
        else:
            return None
        if self._is_closed:
            return None
        hint = _hint(settings.uri) or "does libvirt run, and may this user use it?"
        return f"{settings.uri} cannot be reached: {words} ({hint})"

    def close(self) -> None:
        """End the connection that is being tried, from another thread."""
        with self._lock:
            self._is_closed = True
            if self._session:
                self._session.kill()


def _hint(uri: str) -> str:
    """What may be wrong about a URI by which libvirt cannot be reached.

    >>> _hint("qmeu:///system")
    "libvirt has no driver 'qmeu': is 'qemu' meant?"
    >>> _hint("qemu+ssh://host/sytem")
    "is the path '/system' meant?"
    >>> _hint("qemu+ssh://host/system")
    ''
    """
    if ":" not in uri:
        return "it is no URI, and so an alias that libvirt.conf should have"
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        return str(error)
    driver = parts.scheme.partition("+")[0]
    if driver not in _DRIVERS:
        near = difflib.get_close_matches(driver, _DRIVERS, 1)
        meant = f": is {near[0]!r} meant?" if near else ""
        return f"libvirt has no driver {driver!r}{meant}"
    paths = ("/system", "/session", "/embed")
    if driver == "qemu" and parts.path not in paths:
        near = difflib.get_close_matches(parts.path, paths, 1) or ["/system"]
        return f"is the path {near[0]!r} meant?"
    if driver == "test" and not os.path.exists(unquote(parts.path)):  # noqa: PTH110
        return f"there is no file {unquote(parts.path)}"
    return ""


class FirstLook:
    """Has the log say at the start what will not work, though the daemon serves all the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._libvirt = LibvirtOnce(settings)
        self._thread = Thread(target=self._run, name="first look", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if self._settings.uri.startswith("test:"):
            # It is embedded, and so there at once or not at all.
            self._thread.join(_PATIENCE)

    def close(self) -> None:
        """Its virsh is gone when this returns; a folder that does not answer is not waited for."""
        self._libvirt.close()
        self._thread.join(_END)

    def _run(self) -> None:
        settings = self._settings
        trouble = self._libvirt.trouble()
        if trouble:
            log.warning(
                "%s: %s; it is tried again as needed",
                settings.label("libvirt.uri"),
                trouble,
            )
        backups = Backups(settings.backups, settings.backups_kept)
        try:
            trouble = _within(_PATIENCE, backups.trouble)
        except TimeoutError:
            trouble = f"{settings.backups}: no answer within {_PATIENCE:g} s"
        if trouble:
            log.warning(
                "%s: %s; no boot order can be set until that is mended, or another folder is "
                "chosen with --backup-dir",
                settings.label("boot.backup_dir"),
                trouble,
            )
