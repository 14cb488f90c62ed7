"""The accounts: a file in the format of Apache's htdigest, `USER:REALM:HA1`, one a line.

HA1 is the MD5 of `USER:REALM:PASSWORD` (RFC 7616, section 3.4.2), and as good as the password, so
the file is for its owner's eyes only. Lines of other realms are let be.
"""

import fcntl
import hashlib
import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from mc.errors import BadAccount, UsersUnusable, words
from mc.virsh.quoting import decode, encode

log = logging.getLogger(__name__)

REALM = "libvirt_mc"

_LINE = re.compile(r"([^:]+):([^:]*):([0-9a-fA-F]{32})")
_LONGEST_FILE = 1 << 20


class Users:
    """The accounts in a file, which is read again when it has changed.

    While it cannot be used nobody gets in: every method raises `UsersUnusable`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._seen: tuple[int, ...] | None = None
        self._complaint: str | None = None
        self._ha1_by_name: dict[str, str] = {}

    def ha1(self, name: str) -> str | None:
        """The HA1 of a user, None if there is no such account."""
        return self._current().get(name)

    def names(self) -> set[str]:
        return set(self._current())

    def _current(self) -> dict[str, str]:
        with self._lock:
            seen = _identity(self._path)
            if seen != self._seen or seen is None:
                self._read()
                self._seen = seen
            if self._complaint:
                raise UsersUnusable(self._path, self._complaint)
            return self._ha1_by_name

    def _read(self) -> None:
        complaint = None
        try:
            self._ha1_by_name = _accounts(self._path)
        except UsersUnusable as error:
            complaint = error.reason
        if complaint and complaint != self._complaint:
            log.error("nobody gets in: %s: %s", self._path, complaint)
        elif not complaint:
            log.info("%s has accounts for %s", self._path, ", ".join(sorted(self._ha1_by_name)))
        self._complaint = complaint


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _accounts(path: Path) -> dict[str, str]:
    """The HA1 of each user of our realm. Raises `UsersUnusable`."""
    accounts = {}
    for line in _lines(path):
        name, realm, secret = line.split(":")
        if realm == REALM:
            accounts[name] = secret.lower()
    if not accounts:
        raise UsersUnusable(path, f"it has no account of realm {REALM}: --add-user makes one")
    return accounts


def _lines(path: Path) -> list[str]:
    """The lines of a file that is its owner's alone. Raises `UsersUnusable`."""
    lines = decode(_content(path)).split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip() and not _LINE.fullmatch(line.rstrip("\r")):
            raise UsersUnusable(path, f"line {number} is not USER:REALM:HA1")
    return [line.rstrip("\r") for line in lines if line.strip()]


def _content(path: Path) -> bytes:
    try:
        # Where somebody has put a pipe, opening it would wait for who writes.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise UsersUnusable(path, "it is not a file")
            if mode & 0o077:
                raise UsersUnusable(path, f"others may use it, too: chmod 600 {path}")
            content = file.read(_LONGEST_FILE + 1)
    except FileNotFoundError as error:
        raise UsersUnusable(path, f"{error.strerror}: --add-user makes it") from error
    except OSError as error:
        raise UsersUnusable(path, words(error)) from error
    if len(content) > _LONGEST_FILE:
        raise UsersUnusable(path, f"it is longer than {_LONGEST_FILE} bytes")
    return content


def ha1(name: str, password: str) -> str:
    """The MD5 that stands for a password.

    >>> ha1("admin", "secret")
    'f668d0297a458f5fa908846395b59c33'
    """
    return hashlib.md5(encode(f"{name}:{REALM}:{password}"), usedforsecurity=False).hexdigest()


def add_user(path: Path, name: str, password: str) -> None:
    """Add an account or change its password; the file is the old one or the whole new one.

    Made by root, it belongs to the owner of the old one, or of its folder. Raises `BadAccount` for
    an impossible name or password, `UsersUnusable` if the file that is there is not its owner's
    alone, OSError if it cannot be written.
    """
    if not name or ":" in name or not name.isprintable():
        raise BadAccount(f"no user can be called {name!r}: a name is printable and has no colon")
    if not password or any(character in password for character in "\r\n\0"):
        raise BadAccount("a password of at least one character, on one line, is needed")
    path = path.resolve()
    account = f"{name}:{REALM}:"
    with _alone_in(path.parent):
        others = _lines(path) if path.exists() else []
        lines = [line for line in others if not line.startswith(account)]
        lines.append(account + ha1(name, password))
        _replace(path, encode("\n".join([*lines, ""])))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Nobody else adds an account here meanwhile: what they added would be lost."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if os.geteuid() == 0:
                owner = (path if path.exists() else path.parent).stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink()
        raise
