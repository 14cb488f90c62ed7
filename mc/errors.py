"""The few things that can go wrong, with their context as attributes."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

# Characters of a value; beyond them a message would not be read.
_LONGEST_SHOWN = 300


def words(error: OSError) -> str:
    """What the system says, without Python's number and path; and to whom, where that matters."""
    said = error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{said} for the user with uid {os.geteuid()}"
    return said


class ControllerError(Exception):
    """Base of every error that this package raises on purpose."""

    host: str | None = None
    """The host that was asked, if one was."""
    since: float | None = None
    """If that is down, when that began, in seconds since 1970."""
    name: str | None = None
    uuid: str | None = None
    """The machine that the action was about, once it was found."""
    done: tuple[str, ...] = ()
    """The virsh commands of the same action that had succeeded before the error."""


class SettingsError(ControllerError):
    """Raised if a setting is unknown, of the wrong type, or impossible.

    `label` is how whoever gave it calls it, the key unless given.
    """

    def __init__(self, key: str, value: object, reason: str, label: str = "") -> None:
        shown = repr(list(value) if isinstance(value, tuple) else value)
        if len(shown) > _LONGEST_SHOWN:
            shown = f"{shown[:_LONGEST_SHOWN]}..."
        joint = " " if label.startswith("--") else " = "
        super().__init__(f"{label or key}{joint}{shown}: {reason}")
        self.key = key
        self.value = value
        self.reason = reason


class BadAccount(ControllerError):
    """Raised if there can be no user of this name or with this password."""


class Unusable(ControllerError):
    """Raised at the start if what a setting names cannot be used.

    `key` is the setting's; `host`, the name of the one that it is about, if it is about one.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class UsersUnusable(Unusable):
    """Raised if the file with the accounts cannot be used, so that nobody gets in."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__("auth.users_file", f"{path} cannot be used: {reason}")
        self.path = path
        self.reason = reason


class VirshUnusable(Unusable):
    """Raised at the start if the virsh binary is missing, too old, or lacks readline."""

    def __init__(self, text: str) -> None:
        super().__init__("libvirt.virsh", text)


class NoSuchMachine(ControllerError):
    """Raised if libvirt has, provably, no machine of this name or UUID."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"libvirt has no machine {reference!r}")
        self.reference = reference


class NoSuchHost(ControllerError):
    """Raised if no host has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no host {name!r}")
        self.name = name


class Ambiguous(ControllerError):
    """Raised if more than one machine could be meant; `bearers` are hosts and references there."""

    def __init__(self, reference: str, bearers: Sequence[tuple[str, str]], reason: str) -> None:
        hosts = ", ".join(host for host, _ in bearers)
        super().__init__(f"{reference!r} is on several hosts ({hosts}), {reason}")
        self.reference = reference
        self.bearers = tuple(bearers)


class WrongState(ControllerError):
    """Raised if a verb makes no sense in the state that the machine is in."""

    def __init__(self, verb: str, state: str, reason: str, advice: str) -> None:
        super().__init__(f"cannot {verb} a machine that is {state} ({reason}): {advice}")
        self.verb = verb
        self.state = state
        self.reason = reason


class CannotBoot(ControllerError):
    """Raised if a machine's boot order cannot be set as asked, or it has none; says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Busy(ControllerError):
    """Raised if too many actions on the same machine come first, or take too long."""

    def __init__(self, ahead: int) -> None:
        super().__init__(f"the machine is busy; other actions that come first: {ahead}")
        self.ahead = ahead


class TooMany(ControllerError):
    """Raised if as many of something, such as actions, as may be are under way already."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__(f"as many {what} are under way already as may be: {limit}")
        self.limit = limit
        self.what = what


class HostBusy(TooMany):
    """Raised if as many requests as may be wait for libvirt already."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, "requests")
        self.args = (f"libvirt has not answered {limit} earlier requests yet; try again soon",)


class NotConfigurable(ControllerError):
    """Raised if what a machine boots next cannot be set at all."""


class Transient(ControllerError):
    """Raised if a machine would be gone for good once it is off, and so cannot be started again."""

    def __init__(self) -> None:
        super().__init__("the machine is transient, and would be gone once it is off")


class Migrating(ControllerError):
    """Raised if a machine is on its way to another host, or from one: nothing was changed."""

    def __init__(self) -> None:
        super().__init__("the machine is being migrated; try again when it has arrived")


class NoPicture(ControllerError):
    """Raised if a machine's screen cannot be shown; says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"there is no picture of the screen: {reason}")
        self.reason = reason


class BackupFailed(ControllerError):
    """Raised if a backup could not be written; nothing was changed."""

    def __init__(self, folder: str, words: str) -> None:
        super().__init__(f"no backup could be written to {folder}, so nothing was changed: {words}")
        self.folder = folder
        self.words = words


class Refused(ControllerError):
    """Raised if libvirt answered a command with an error; the text is libvirt's own."""

    def __init__(self, command: str, words: str) -> None:
        super().__init__(words)
        self.command = command
        self.words = words


class Unavailable(ControllerError):
    """Base of the errors in which libvirt did not answer at all.

    `unknown` says that an action had been sent already: what came of it is not known, and only
    reading the machine's state again can tell.
    """

    unknown = False


class Unreachable(Unavailable):
    """Raised if no connection to libvirt could be had; the command was never sent."""


class HostDown(Unreachable):
    """Raised at once while a host cannot be reached.

    words: libvirt's; since: when that began, in seconds since 1970; retry_after: seconds until it
    is tried again.
    """

    def __init__(self, host: str, words: str, since: float, retry_after: float) -> None:
        super().__init__(words)
        self.host = host
        self.words = words
        self.since = since
        self.retry_after = retry_after


class Away(Unavailable):
    """Raised if what was asked cannot be told without these hosts, which do not answer."""

    def __init__(self, what: str, hosts: Sequence[str]) -> None:
        super().__init__(f"{what}; not heard of: {', '.join(hosts)}")
        self.hosts = tuple(hosts)


class Stopping(Unavailable):
    """Raised if the controller itself is about to end."""

    def __init__(self) -> None:
        super().__init__("the controller is stopping")


class ConnectionLost(Unavailable):
    """Raised if the connection to libvirt, or virsh itself, went away during a command."""

    def __init__(self, command: str, words: str) -> None:
        super().__init__(f"the connection to libvirt was lost during '{command}': {words}")
        self.command = command
        self.words = words


class ChangeLost(Unavailable):
    """Raised if a machine went to another host while it was changed: there it may be as before."""

    unknown = True

    def __init__(self) -> None:
        super().__init__("the machine went to another host while it was changed, or has gone")


class NoAnswer(Unavailable):
    """Raised if a deadline passed before libvirt answered."""

    def __init__(self, command: str) -> None:
        super().__init__(f"libvirt did not answer '{command}' in time")
        self.command = command
