"""What will not work, told before anybody finds it out: at the start, and by `--check-config`.

What is read once only, at the start, is an error there: the address, the certificate, virsh, and
the accounts, without which nobody would get in. What may come later, or come back, is a warning:
libvirt, and the backup folder.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Literal, TypeVar

from mc import libvirt_uri
from mc.boot.backup import Backups
from mc.errors import NoAnswer, Unreachable, Unusable, VirshUnusable, words
from mc.settings import HostSettings, Settings
from mc.users import Users
from mc.virsh import check_binary
from mc.virsh.session import Session

log = logging.getLogger(__name__)

# Seconds for what has no deadline of its own, such as a folder on a network.
_PATIENCE = 15.0
# As many connections are made at once as the daemon makes, lest they keep the processor from each
# other. One that takes longer than so many seconds waits for its host, and counts no more.
_AT_ONCE = 8
_BUSY_SECONDS = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What became of one check; the text begins with what the setting is called."""

    mark: Literal["ok", "warning", "failed"]
    text: str


def findings(settings: Settings, *, with_packages: bool) -> Iterator[Finding]:
    """What `--check-config` finds, one by one. Nothing is changed, and every wait has an end.

    `with_packages` says whether there are those of Python's without which nothing is served.
    """

    def found(key: str, look: Callable[[], str], host: str = "") -> Finding:
        label = settings.label(key, host)
        try:
            return Finding("ok", f"{label}: {_begun(look).result(_PATIENCE)}")
        except Unusable as error:
            return Finding("failed", f"{settings.label(error.key, host)}: {error}")
        except TimeoutError:
            return Finding("failed", f"{label}: no answer within {_PATIENCE:g} s")

    if with_packages and settings.certificate:
        yield found("server.ssl_certificate", lambda: _tls(settings))
    if with_packages:
        yield found("server.socket_port", lambda: _address(settings))
    if settings.users_file:
        yield found("auth.users_file", lambda: _accounts(settings))
    usable = set()
    for binary, host in settings.virshs.items():
        virsh = found("libvirt.virsh", partial(_virsh, binary), host.name)
        yield virsh
        if virsh.mark == "ok":
            usable.add(binary)
    yield from _connections(settings, usable)
    yield found("boot.backup_dir", lambda: _backups(settings))


def _connections(settings: Settings, virshs: set[str]) -> Iterator[Finding]:
    """What there is to say of each host, with these virsh binaries."""
    troubles = _troubles([host for host in settings.hosts if host.virsh in virshs])
    # Each has its own deadline, and this one is for what comes around it.
    end = time.monotonic() + max(host.read_seconds for host in settings.hosts) + _PATIENCE
    for host in settings.hosts:
        label = settings.label("libvirt.uri", host.name)
        for text in libvirt_uri.warnings(host.uri):
            yield Finding("warning", f"{label}: {text}")
        trouble: str | None = "not tried, for want of virsh"
        if host.name in troubles:
            try:
                trouble = troubles[host.name].result(max(0.0, end - time.monotonic()))
            except TimeoutError:
                trouble = f"no answer within {host.read_seconds + _PATIENCE:g} s"
        if trouble:
            yield Finding("failed", f"{label}: {trouble}")
        else:
            yield Finding("ok", f"{label}: {host.uri} answers")


def _troubles(hosts: Sequence[HostSettings]) -> dict[str, Future[str | None]]:
    """What will become of a connection to each host, by its name; all are begun."""
    troubles = {}
    busy: dict[Future[str | None], float] = {}
    for host in hosts:
        while len(busy) >= _AT_ONCE:
            wait(busy, min(busy.values()) - time.monotonic(), FIRST_COMPLETED)
            now = time.monotonic()
            busy = {one: until for one, until in busy.items() if now < until and not one.done()}
        troubles[host.name] = _begun(partial(_trouble, host))
        busy[troubles[host.name]] = time.monotonic() + _BUSY_SECONDS
    return troubles


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


def _virsh(binary: str) -> str:
    return f"version {check_binary(binary)}"


def check_virshs(settings: Settings) -> str:
    """The versions of the virsh binaries, such as `9.0.0`.

    Raises `VirshUnusable` if one cannot be used, with a host that it is for.
    """
    versions = set()
    for binary, host in settings.virshs.items():
        try:
            versions.add(check_binary(binary))
        except VirshUnusable as error:
            error.host = host.name
            raise
    return ", ".join(sorted(versions))


def _backups(settings: Settings) -> str:
    trouble = _folder_trouble(settings)
    if trouble:
        raise Unusable("boot.backup_dir", trouble)
    folder = settings.backup_dir
    return f"{folder} {'can be written' if os.path.lexists(folder) else 'will be made when needed'}"


def _folder_trouble(settings: Settings) -> str | None:
    """Why no backup of some host's machines could be written; see `Backups.trouble`."""
    folders = (Backups(settings.backups_of(host), settings.backups_kept) for host in settings.hosts)
    return next(filter(None, (folder.trouble() for folder in folders)), None)


def _begun(look: Callable[[], T]) -> Future[T]:
    """What a function will return or raise, in a thread that no end of the process waits for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(look())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _trouble(host: HostSettings) -> str | None:
    """Why libvirt cannot be reached by a virsh of its own; None if it can.

    It takes as long as the daemon gives a connection: libvirt.read_seconds.
    """
    deadline = time.monotonic() + host.read_seconds
    try:
        with closing(Session(host.virsh, host.uri)) as session:
            session.greet(deadline)
        return None
    except Unreachable as error:
        said = str(error)
    except NoAnswer:
        said = f"no answer within {host.read_seconds:g} s (libvirt.read_seconds)"
    except OSError as error:
        # Files may run out where hosts are many.
        said = words(error)
    return f"{host.uri} cannot be reached: {said} ({libvirt_uri.hint(host.uri)})"


def warn_at_start(settings: Settings) -> None:
    """Have the log say at the start what is unsafe, or will not work, though it serves."""
    for host in settings.hosts:
        for text in libvirt_uri.warnings(host.uri):
            log.warning("%s: %s", settings.label("libvirt.uri", host.name), text)
    # A folder that does not answer is not waited for.
    Thread(target=_warn_of_backups, args=[settings], name="first look", daemon=True).start()


def _warn_of_backups(settings: Settings) -> None:
    try:
        trouble = _begun(lambda: _folder_trouble(settings)).result(_PATIENCE)
    except TimeoutError:
        trouble = f"{settings.backup_dir}: no answer within {_PATIENCE:g} s"
    if trouble:
        log.warning(
            "%s: %s; no boot order can be set until that is mended, or another folder is "
            "chosen with --backup-dir",
            settings.label("boot.backup_dir"),
            trouble,
        )
