"""Backups of domain XML: whole files, never overwritten, in a folder that is nobody else's."""

import hashlib
import logging
import os
import re
import stat
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from mc.errors import BackupFailed, words
from mc.virsh.quoting import encode

log = logging.getLogger(__name__)

_DATE = "%Y%m%dT%H%M%S.%fZ"
_TEMPORARY = ".writing-"
# Seconds after which a file of that name is what a crash has left.
_STALE = 3600
# From here on no date can be ours: somebody may call a file anything, up to the end of time, after
# which there is no date for the next one.
_TOO_LATE = datetime(9000, 1, 1, tzinfo=UTC)
# What a name may take of the 255 bytes that a file system gives to a file name.
_LONGEST_NAME = 180


class Backups:
    """Keeps `NAME.xml.DATE.backup` files, each a complete domain XML for `virsh define`.

    Of each name the `kept` newest backups stay, and the first one of the machine that bears it now.
    """

    def __init__(self, folder: Path, kept: int) -> None:
        self._folder = folder
        self._kept = kept

    def save(self, name: str, xml: str) -> Path:
        """Write a backup of the machine of this name; it is on disk when this returns.

        The caller holds the machine's turn. Raises `BackupFailed` if it cannot be written; then
        no part of it is left.
        """
        stem = file_stem(name)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            earlier = self._of(stem)
            path = self._folder / f"{stem}{_next_date(earlier, stem)}.backup"
            self._write(path, encode(xml))
        except OSError as error:
            raise BackupFailed(str(self._folder), words(error)) from error
        self._prune([*earlier, path], xml)
        return path

    def trouble(self) -> str | None:
        """Why no backup could be written now; None if, by all that can be seen, one could.

        Nothing is written or made. Where the file system does not answer, this does not end.
        """
        try:
            place = _nearest(self._folder)
            if not stat.S_ISDIR(place.stat().st_mode):
                return f"{place} is not a folder"
            needed = os.W_OK | os.X_OK | (os.R_OK if place == self._folder else 0)
            if not os.access(place, needed, effective_ids=True):
                made = "" if place == self._folder else f", where {self._folder} would be made,"
                return f"{place}{made} cannot be written by the user with uid {os.geteuid()}"
            space = os.statvfs(place)
            # Some file systems count none of them.
            if (space.f_blocks and not space.f_bavail) or (space.f_files and not space.f_favail):
                return f"no room is left in {place}"
        except OSError as error:
            return f"{self._folder}: {words(error)}"
        return None

    def _of(self, stem: str) -> list[Path]:
        """The backups of one machine, the oldest first."""
        # Their names are in the order of their dates.
        return sorted(
            path
            for path in self._folder.iterdir()
            if path.name.startswith(stem) and _date_of(path, stem) is not None
        )

    def _write(self, path: Path, content: bytes) -> None:
        """A crash leaves a whole file or none, and a file that exists is never replaced."""
        handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename, a link refuses to replace.
            os.link(temporary, path)
        finally:
            Path(temporary).unlink()
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _prune(self, backups: list[Path], xml: str) -> None:
        """Remove all but the newest and the machine's first; what cannot be is only logged."""
        surplus = backups[: -self._kept]
        uuid = _uuid(encode(xml))
        for number, path in enumerate(surplus):
            if _uuid_in(path) == uuid:
                del surplus[number]
                break
        for path in surplus:
            _remove(path)
        for path in self._left_behind():
            _remove(path)

    def _left_behind(self) -> list[Path]:
        """Files that were being written when a daemon was killed."""
        return [path for path in self._folder.glob(f"{_TEMPORARY}*") if _age(path) > _STALE]


def _nearest(folder: Path) -> Path:
    """The folder, or else what there is on the way to it: where it would be made."""
    for place in (folder, *folder.parents):
        # A link to nothing is there as well: no folder can be made in its place.
        if os.path.lexists(place):
            return place
    return Path("/")


def _uuid(xml: bytes) -> bytes | None:
    """A machine's own UUID; there may be others of its parts behind it."""
    found = re.search(rb"<uuid>\s*([0-9A-Fa-f-]+)\s*</uuid>", xml)
    return found[1].lower() if found else None


def _uuid_in(path: Path) -> bytes | None:
    try:
        return _uuid(path.read_bytes()) if path.is_file() else None
    except OSError as error:
        log.warning("whose backup %s is cannot be told: %s", path, error)
        return None


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        log.warning("an old backup stays: %s: %s", path, error)


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 for one that is gone, as temporary files soon are."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0


def file_stem(name: str) -> str:
    """The beginning of a machine's backup files: names cannot leave the folder, nor clash.

    >>> file_stem("web-1")
    'web-1.xml.'
    >>> file_stem("../a b")
    '%2E.%2Fa%20b.xml.'

    What stands for the rest of a long name begins with `@`, which no other stem has.
    """
    safe = quote(encode(name), safe="")
    if safe.startswith("."):
        safe = "%2E" + safe[1:]
    if len(safe) > _LONGEST_NAME:
        digest = hashlib.sha256(encode(name)).hexdigest()[:32]
        safe = f"{safe[: _LONGEST_NAME - len(digest) - 1]}@{digest}"
    return f"{safe}.xml."


def _next_date(earlier: list[Path], stem: str) -> str:
    """Now, or just after the newest backup if the clock has not come so far or was put back."""
    now = datetime.now(UTC)
    newest = _date_of(earlier[-1], stem) if earlier else None
    if newest is not None and now <= newest:
        following = newest + timedelta(microseconds=1)
        now = following if following < _TOO_LATE else now
    return now.strftime(_DATE)


def _date_of(path: Path, stem: str) -> datetime | None:
    """When a backup was made; None for a file that is none of this machine's."""
    text = path.name.removeprefix(stem).removesuffix(".backup")
    try:
        date = datetime.strptime(text, _DATE).replace(tzinfo=UTC)
    except ValueError:
        return None
    # There are more ways to write a date than ours, and they come in another order.
    is_ours = path.name == f"{stem}{date.strftime(_DATE)}.backup"
    return date if is_ours and date < _TOO_LATE else None
