"""One short method per virsh command, each named as virsh names it."""

import logging
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mc.errors import ConnectionLost, NoAnswer, NoPicture, Refused
from mc.virsh.pool import Pool, SessionCounts
from mc.virsh.quoting import decode
from mc.virsh.session import Session

log = logging.getLogger(__name__)

# How many times as many sessions as are kept open may be opened when those kept are stuck.
BURST = 4
_READ_PATIENCE = 0.1
# Sessions that take pictures of screens. QEMU draws one in 10 to 40 ms.
_PICTURE_SESSIONS = 2
# Bytes of a picture: 64 MiB are 4096 by 5461 pixels, uncompressed.
_LARGEST_PICTURE = 1 << 26
# A machine's name is part of the names of files, which have 255 bytes at most.
_LONGER_THAN_A_NAME = 256

T = TypeVar("T")


@dataclass(frozen=True)
class Listed:
    """A machine in virsh's list: `id` is None when it is off."""

    uuid: str
    id: int | None
    name: str


class Virsh:
    """virsh on live sessions: for reading, for acting, for reads of all machines, for pictures.

    Apart from each other, because a command on one machine may take half a minute and stalls
    reads of all machines meanwhile, and no status waits until a picture is drawn. A `test:` URI
    has one session for everything: the state of the embedded hypervisor lives in its connection,
    and ends with it.

    Every method raises `Refused` with libvirt's words, or `Unavailable`. A read whose connection
    is lost is repeated once on a new one, an action never. Deadlines are in seconds and cover
    waiting for a session, connecting, and the command. A domain is a name or UUID where a method
    reads, a UUID where it acts; `destroy` takes libvirt's number of a run. `on_command` is called
    after each command, whatever came of it, with its name and the seconds that it took.
    """

    def __init__(
        self,
        binary: str,
        uri: str,
        *,
        read_sessions: int,
        action_sessions: int,
        actions_at_once: int,
        read_seconds: float,
        action_seconds: float,
        shutdown_mode: str = "",
        on_command: Callable[[str, float], None] = lambda command, seconds: None,
    ) -> None:
        self._typed = [binary, "-c", uri]
        self._read_seconds = read_seconds
        self._action_seconds = action_seconds
        self._mode = ["--mode", shutdown_mode] if shutdown_mode else []
        self._on_command = on_command

        def pool(keep: int, limit: int, patience: float) -> Pool:
            return Pool(
                lambda: Session(binary, uri),
                keep=keep,
                limit=limit,
                patience=patience,
                connect_seconds=read_seconds,
            )

        if uri.startswith("test:"):
            self._reading = self._listing = self._acting = self._drawing = pool(1, 1, 0)
            self._pools = {"all": self._reading}
        else:
            self._reading = pool(read_sessions, BURST * read_sessions, _READ_PATIENCE)
            self._listing = pool(1, BURST, _READ_PATIENCE)
            self._acting = pool(action_sessions, max(action_sessions, actions_at_once), 0)
            self._drawing = pool(_PICTURE_SESSIONS, BURST * _PICTURE_SESSIONS, _READ_PATIENCE)
            self._pools = {
                "read": self._reading,
                "list": self._listing,
                "act": self._acting,
                "draw": self._drawing,
            }

    def close(self) -> None:
        """End every session; commands under way raise `ConnectionLost`."""
        for pool in self._pools.values():
            pool.close()

    def sessions(self) -> dict[str, SessionCounts]:
        """How many there are, by what they are for: `read`, `list`, `act` and `draw`, or `all`."""
        return {name: pool.counts() for name, pool in self._pools.items()}

    def hostname(self) -> str:
        """The name of libvirt's host: what costs the least and only libvirt itself can tell."""
        return self._read(self._reading, "hostname").strip()

    def list_all(self) -> list[Listed]:
        """Every machine, running or not, in libvirt's order."""
        out = self._read(self._listing, "list", "--all", "--uuid", "--id", "--name")
        return [_listed(line) for line in out.split("\n") if line]

    def domstats(self) -> dict[str, int]:
        """The number of the state (virDomainState) of every machine, by its name."""
        return dict(_states(self._read(self._listing, "domstats", "--state", "--nowait")))

    def dominfo(self, domain: str) -> dict[str, str]:
        """What virsh tells of a domain: `Id` (`-` when off), `Name`, `UUID`, `State`, ..."""
        out = self._read(self._reading, "dominfo", "--domain", domain)
        # virsh prints "%-15s %s"; a name may begin with spaces of its own.
        return {line[:16].rstrip(" :"): line[16:] for line in out.split("\n") if line}

    def domstate(self, domain: str) -> tuple[str, str]:
        """State and reason in libvirt's words, such as `("shut off", "destroyed")`."""
        out = self._read(self._reading, "domstate", "--domain", domain, "--reason")
        state, _, reason = out.strip().partition(" (")
        return state, reason.removesuffix(")")

    def dumpxml(self, domain: str, *, inactive: bool = False) -> str:
        """The domain XML: of the running machine, or as it will be at the next start.

        The latter is complete, with its secrets: without them `define` would lose them.
        """
        which = ["--inactive", "--security-info"] * inactive
        return self._read(self._reading, "dumpxml", "--domain", domain, *which)

    def nodedev_dumpxml(self, device: str) -> str:
        """The XML of a device of the host, such as `pci_0000_03_00_0`."""
        return self._read(self._reading, "nodedev-dumpxml", "--device", device)

    def screenshot(self, domain: str) -> bytes:
        """What is on the machine's first screen: an image of the type that the hypervisor makes.

        Raises `NoPicture` if it is larger than 64 MiB.
        """

        def draw(session: Session, deadline: float) -> bytes | None:
            with session.document("") as path:
                arguments = ("screenshot", "--domain", domain, "--file", path)
                self._run(session, arguments, deadline)
                return session.written(_LARGEST_PICTURE)

        image = self._read_by(self._drawing, draw)
        if image is None:
            raise NoPicture(f"libvirt's is larger than {_LARGEST_PICTURE} bytes")
        return image

    def define(self, xml: str) -> None:
        """Replace the persistent configuration.

        Not with --validate: libvirt's schema refuses what some machines have that libvirt itself
        made and runs, and that nobody asked to be changed.
        """
        self._act_with(xml, "define")

    def create(self, xml: str) -> None:
        """Start a machine once by this XML; its persistent configuration stays."""
        self._act_with(xml, "create")

    def managedsave_remove(self, uuid: str) -> None:
        """Discard the saved memory image of a machine that is off."""
        self._act("managedsave-remove", "--domain", uuid)

    def start(self, uuid: str) -> None:
        self._act("start", "--domain", uuid)

    def resume(self, uuid: str) -> None:
        self._act("resume", "--domain", uuid)

    def dompmwakeup(self, uuid: str) -> None:
        self._act("dompmwakeup", "--domain", uuid)

    def shutdown(self, uuid: str) -> None:
        """Ask the guest to power off; success does not mean that it will."""
        self._act("shutdown", "--domain", uuid, *self._mode)

    def reboot(self, uuid: str) -> None:
        """Ask the guest to reboot; success does not mean that it will."""
        self._act("reboot", "--domain", uuid, *self._mode)

    def reset(self, uuid: str) -> None:
        self._act("reset", "--domain", uuid)

    def destroy(self, number: int, *, graceful: bool = False) -> None:
        """End the run of a machine that has this number, at once, and no other run of it.

        `graceful` spares a hypervisor that does not end when told to.
        """
        # virsh takes what is no number of a machine for a name: no machine has one so long.
        digits = str(number).zfill(_LONGER_THAN_A_NAME)
        self._act("destroy", "--domain", digits, *["--graceful"] * graceful)

    def inject_nmi(self, uuid: str) -> None:
        self._act("inject-nmi", "--domain", uuid)

    def _read(self, pool: Pool, *arguments: str) -> str:
        return self._read_by(pool, lambda session, until: self._run(session, arguments, until))

    def _read_by(self, pool: Pool, read: Callable[[Session, float], T]) -> T:
        """What `read` gets from a session until a deadline."""
        deadline = time.monotonic() + self._read_seconds
        try:
            with pool.session(deadline) as session:
                return read(session, deadline)
        except ConnectionLost as error:
            log.debug("reading again on a new connection: %s", error)
            with pool.session(deadline) as session:
                return read(session, deadline)

    def _act(self, *arguments: str) -> None:
        deadline = time.monotonic() + self._action_seconds
        with self._acting.session(deadline) as session:
            self._run_once(session, arguments, deadline)

    def _act_with(self, document: str, *arguments: str) -> None:
        """An action that takes a file: its content is neither logged nor written to a disk."""
        deadline = time.monotonic() + self._action_seconds
        with self._acting.session(deadline) as session, session.document(document) as path:
            try:
                self._run_once(session, (*arguments, "--file", path), deadline)
            except Refused as error:
                # The path says nothing to whoever reads libvirt's words.
                raise Refused(error.command, error.words.replace(f" from {path}", "")) from error

    def _run_once(self, session: Session, arguments: tuple[str, ...], deadline: float) -> None:
        try:
            self._run(session, arguments, deadline)
        except (ConnectionLost, NoAnswer) as error:
            error.unknown = True
            raise

    def _run(self, session: Session, arguments: tuple[str, ...], deadline: float) -> str:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s", shlex.join([*self._typed, *arguments]))
        start = time.perf_counter()
        try:
            return decode(session.run(arguments, deadline))
        finally:
            self._on_command(arguments[0], time.perf_counter() - start)


def _listed(line: str) -> Listed:
    uuid, number, name = line.split(" ", 2)
    return Listed(uuid, None if number == "-" else int(number), name)


def _states(out: str) -> Iterator[tuple[str, int]]:
    name = None
    for line in out.split("\n"):
        if line.startswith("Domain: '"):
            name = line[len("Domain: '") : -1]
        elif name is not None and line.startswith("  state.state="):
            yield name, int(line.rpartition("=")[2])
