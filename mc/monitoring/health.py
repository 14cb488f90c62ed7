"""Whether libvirt can be reached, and backups be written."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition, Lock, Thread

from mc.errors import Refused, TooMany, Unavailable
from mc.machine.turns import Places

# Seconds that one of a crowd waits for a question that somebody else has asked.
_PATIENCE = 0.1
# Seconds after which a file system that does not answer, such as NFS without its server, is one
# that cannot be written.
_FOLDER_PATIENCE = 1.0


class Folder:
    """Says whether the backup folder can be written; `trouble` is what to ask.

    A look that does not end holds one thread, and nobody else.
    """

    def __init__(self, trouble: Callable[[], str | None]) -> None:
        self._trouble = trouble
        self._lock = Lock()
        self._look: Thread | None = None
        self._is_writable = False

    def writable(self) -> bool:
        with self._lock:
            look = self._look
            if look is None or not look.is_alive():
                self._look = look = Thread(target=self._ask, name="backup folder", daemon=True)
                look.start()
        look.join(_FOLDER_PATIENCE)
        return self._is_writable and not look.is_alive()

    def _ask(self) -> None:
        self._is_writable = self._trouble() is None


@dataclass(frozen=True)
class Report:
    """Whether libvirt answered, and whether the backup folder can be written."""

    libvirt: bool
    backups: bool


class Health:
    """Asks libvirt and looks at the folder whenever it is asked: no answer is an old one.

    One question at a time, since strangers may ask: who comes meanwhile shares its answer. As many
    as there are `places` wait for it however long it takes; what is beyond them is a crowd, for
    which libvirt is away when it has not answered for a while.
    """

    def __init__(self, ask: Callable[[], object], folder: Folder, places: Places) -> None:
        """`ask` is what asks libvirt something, and raises what a command does."""
        self._ask_libvirt = ask
        self._folder = folder
        self._places = places
        self._changed = Condition()
        self._asked_at: float | None = None
        self._answers = 0
        self._last = Report(libvirt=False, backups=False)

    def report(self) -> Report:
        """Whether libvirt itself answers, within the deadline of a read; and the folder."""
        with self._changed:
            asks = self._asked_at is None
            if asks:
                self._asked_at = time.monotonic()
            asked_at, before = self._asked_at or 0.0, self._answers
        if asks:
            return self._ask()
        try:
            with self._places.place():
                return self._shared(before, None)
        except TooMany:
            return self._shared(before, asked_at + _PATIENCE - time.monotonic())

    def _ask(self) -> Report:
        report = Report(libvirt=False, backups=False)
        try:
            report = Report(self._reachable(), self._folder.writable())
        finally:
            with self._changed:
                self._asked_at = None
                self._answers += 1
                self._last = report
                self._changed.notify_all()
        return report

    def _reachable(self) -> bool:
        try:
            self._ask_libvirt()
        except Unavailable:
            return False
        except Refused:
            # Some hypervisors cannot tell; but this was an answer.
            return True
        return True

    def _shared(self, before: int, seconds: float | None) -> Report:
        """What somebody else was told; if not within so many seconds, libvirt is away."""
        with self._changed:
            answered = self._changed.wait_for(lambda: self._answers > before, seconds)
            return self._last if answered else replace(self._last, libvirt=False)
