"""One short method per virsh command, each named as virsh names it."""

import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mc.errors import ConnectionLost, NoAnswer, NoPicture, Refused
from mc.virsh.gate import Gate, OpenGate
from mc.virsh.layout import Layout
from mc.virsh.listing import DOMSTATS, LIST, Listed, Listing, parsed
from mc.virsh.pool import Pool, SessionCounts
from mc.virsh.quoting import decode
from mc.virsh.session import Session
from mc.virsh.sessions import Sessions

log = logging.getLogger(__name__)

# Bytes of a picture: 64 MiB are 4096 by 5461 pixels, uncompressed.
_LARGEST_PICTURE = 1 << 26
# A machine's name is part of the names of files, which have 255 bytes at most.
_LONGER_THAN_A_NAME = 256

T = TypeVar("T")


@dataclass(frozen=True)
class Stats:
    """A machine's name, and the numbers of its state and of the reason for it.

    They are those of virDomainState, and of virDomainRunningReason and the like.
    """

    name: str
    state: int
    reason: int


class Virsh:
    """virsh on live sessions of one libvirt, which are opened as they are needed.

    Every method that is a command raises `Refused` with libvirt's words, `Unavailable`, `HostBusy`
    or what the gate raises. A read whose connection is lost is repeated once on a new one, an
    action never. Deadlines are in seconds and cover waiting for a session, connecting, and the
    command. A domain is a name or UUID where a method reads, a UUID where it acts; `destroy` takes
    libvirt's number of a run. `on_command` is called after each command, whatever came of it, with
    its name and the seconds that it took.
    """

    def __init__(
        self,
        binary: str,
        uri: str,
        *,
        sessions: Layout,
        read_seconds: float,
        action_seconds: float,
        connect_seconds: float = 5.0,
        shutdown_mode: str = "",
        on_command: Callable[[str, float], None] = lambda command, seconds: None,
        gate: Gate | None = None,
    ) -> None:
        self._typed = [binary, "-c", uri]
        self._read_seconds = read_seconds
        self._action_seconds = action_seconds
        self._connect_seconds = connect_seconds
        self._mode = ["--mode", shutdown_mode] if shutdown_mode else []
        self._on_command = on_command
        self._gate = gate or OpenGate()
        self._answered_at = time.monotonic()
        self._sessions = Sessions(binary, uri, sessions, self._gate, connect_seconds)
        self._reading = self._sessions.reading
        self._listing = self._sessions.listing
        self._acting = self._sessions.acting
        self._drawing = self._sessions.drawing

    def connect(self) -> None:
        """See that a session for reading is open and that libvirt answers on it.

        The gate is not asked. Raises `Unreachable` with libvirt's words, or `NoAnswer` after
        `connect_seconds`.
        """
        deadline = time.monotonic() + self._connect_seconds
        self._twice(
            self._reading,
            lambda session, until: self._run(session, ("hostname",), until),
            deadline,
            by_request=False,
        )

    def give_up_waiting(self) -> None:
        """Have whoever waits for a session ask the gate again."""
        self._sessions.wake_all()

    def tidy(self) -> None:
        """End sessions that have been idle too long; to be called every few seconds."""
        self._sessions.tidy()

    def stop(self) -> None:
        """Tell every session to end, and return at once; commands raise `Unavailable` from now on.

        Whoever closes many hosts stops them all first, so that they end side by side.
        """
        self._sessions.stop()

    def close(self) -> None:
        """End every session, within a second; commands under way raise `ConnectionLost`."""
        self._sessions.close()

    def silent(self) -> float:
        """Seconds since a command was answered, whatever the answer."""
        return time.monotonic() - self._answered_at

    def sessions(self) -> dict[str, SessionCounts]:
        """How many there are, by what they are for: `read`, `list`, `act` and `draw`, or `all`.

        Where lists have no sessions of their own, those for reading are told as `read`.
        """
        return self._sessions.counts()

    def listing(self) -> Listing:
        """Every machine and its state, for a caller who reads them of many hosts at once."""
        for command in (DOMSTATS, LIST):
            self._log(*command)
        return Listing(self._listing, self._gate, lambda seconds: self._on_command("list", seconds))

    def hostname(self) -> str:
        """The name of libvirt's host: what costs the least and only libvirt itself can tell."""
        return self._read(self._reading, "hostname").strip()

    def list_all(self) -> list[Listed]:
        """Every machine, running or not, in libvirt's order."""
        return parsed(self._read_raw(self._listing, *LIST))[0]

    def domstats(self) -> dict[str, int]:
        """The number of the state (virDomainState) of every machine, by its name."""
        return parsed(self._read_raw(self._listing, *DOMSTATS))[1]

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

    def domuuid(self, name: str) -> str:
        """The UUID of the machine of this name."""
        return self._read(self._reading, "domuuid", "--domain", name).strip()

    def domname(self, uuid: str) -> str:
        """The name of the machine of this UUID."""
        return self._read(self._reading, "domname", "--domain", uuid).removesuffix("\n")

    def domid(self, uuid: str) -> int | None:
        """libvirt's number of the machine's run; None when it is off."""
        number = self._read(self._reading, "domid", "--domain", uuid).strip()
        return None if number == "-" else int(number)

    def domstats_of(self, uuid: str) -> Stats:
        """The name and the state of one machine."""
        out = self._read(self._reading, "domstats", "--state", "--nowait", "--domain", uuid)
        return _stats(out)

    def domstats_if_persistent(self, uuid: str) -> Stats | None:
        """The same; None if the machine is transient."""
        arguments = ("--state", "--nowait", "--list-persistent", "--domain", uuid)
        out = self._read(self._reading, "domstats", *arguments)
        return _stats(out) if out.strip() else None

    def domjobinfo(self, uuid: str) -> dict[str, str]:
        """What virsh tells of the job that libvirt does on a machine, such as `Operation`."""
        lines = self._read(self._reading, "domjobinfo", "--domain", uuid).split("\n")
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def managedsave_dumpxml(self, uuid: str) -> str:
        """The XML in the saved memory image of a machine; `Refused` if it has none."""
        return self._read(self._reading, "managedsave-dumpxml", "--domain", uuid)

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
        return decode(self._read_raw(pool, *arguments))

    def _read_raw(self, pool: Pool, *arguments: str) -> bytes:
        return self._read_by(pool, lambda session, until: self._run(session, arguments, until))

    def _read_by(self, pool: Pool, read: Callable[[Session, float], T]) -> T:
        """What `read` gets from a session until a deadline."""
        deadline = time.monotonic() + self._read_seconds
        try:
            return self._twice(pool, read, deadline)
        except NoAnswer:
            self._gate.suspect()
            raise

    def _twice(
        self,
        pool: Pool,
        read: Callable[[Session, float], T],
        deadline: float,
        *,
        by_request: bool = True,
    ) -> T:
        """What `read` gets from a session, or from another one if the connection is lost."""
        try:
            with pool.session(deadline, by_request=by_request) as session:
                return read(session, deadline)
        except ConnectionLost as error:
            log.debug("reading again on a new connection: %s", error)
            with pool.session(deadline, by_request=by_request) as session:
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

    def _run(self, session: Session, arguments: tuple[str, ...], deadline: float) -> bytes:
        self._log(*arguments)
        start = time.perf_counter()
        try:
            return session.run(arguments, deadline)
        finally:
            if session.usable:
                self._answered_at = time.monotonic()
            self._on_command(arguments[0], time.perf_counter() - start)

    def _log(self, *arguments: str) -> None:
        """Tell a command as one would type it."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s", shlex.join([*self._typed, *arguments]))


def _stats(out: str) -> Stats:
    """Of one machine; virsh prints its name first."""
    domain, *lines = out.strip("\n").split("\n")
    numbers = dict(line.strip().split("=") for line in lines)
    name = domain.removeprefix("Domain: '").removesuffix("'")
    return Stats(name, int(numbers["state.state"]), int(numbers["state.reason"]))
