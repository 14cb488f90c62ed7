"""Events about machines, as lines of virsh.

libvirt's own tell of whatever changes, but not why a machine has ended, nor when something came to
pass; QEMU's do (https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html).
"""

import re
from dataclasses import dataclass

from mc.virsh.quoting import decode

_EVENT = re.compile(rb"event '([a-z0-9-]+)' for domain '(.*)")
_QEMU_EVENT = re.compile(rb"event ([A-Z_]+) at (\d+\.\d+) for domain '(.*)': ")


@dataclass(frozen=True)
class QemuEvent:
    """What QEMU has told of the machine of this name.

    at: when, in seconds since 1970 by the clock of the machine's host; reason: of RESET and
    SHUTDOWN, QEMU's ShutdownCause, such as `guest-reset`.
    """

    kind: str
    name: str
    at: float
    reason: str


def qemu_event(line: bytes) -> QemuEvent | None:
    r"""An event from one line of virsh; None if it is none.

    >>> qemu_event(b"event RESET at 9.5 for domain 'a': {\"reason\":\"guest-reset\"}")
    QemuEvent(kind='RESET', name='a', at=9.5, reason='guest-reset')
    >>> qemu_event(b"event STOP at 17.000042 for domain 'it's': x': <null>")
    QemuEvent(kind='STOP', name="it's': x", at=17.000042, reason='')

    What follows the name holds, in the events that tell a reason, no quote like the name's.
    """
    found = _QEMU_EVENT.match(line)
    if not found:
        return None
    reason = re.search(rb'"reason":"([a-z-]+)"', line[found.end() :])
    return QemuEvent(
        found[1].decode("ascii"),
        decode(found[3]),
        float(found[2]),
        reason[1].decode("ascii") if reason else "",
    )


def parsed(line: bytes) -> tuple[str, str] | None:
    """The kind of an event and the machine's name, from one line of virsh; None if it is no event.

    >>> parsed(b"event 'lifecycle' for domain 'it's': x': Started Booted")
    ('lifecycle', "it's': x")
    >>> parsed(b"event 'reboot' for domain 'a': b'")
    ('reboot', "a': b")
    >>> parsed(b"event 'metadata-change' for domain 'a': type element, uri urn:x")
    ('metadata-change', 'a')

    The name stands between quotes and may hold quotes. It ends at the last one: what virsh adds
    about a `lifecycle` holds none, and about a `reboot` it adds nothing. Of other kinds, which
    may quote something else, a name that is odd enough may come out wrong.
    """
    found = _EVENT.match(line)
    if not found:
        return None
    name, quote, more = found[2].rpartition(b"'")
    if not quote or (more and not more.startswith((b":", b" "))):
        return None
    return found[1].decode("ascii"), decode(name)
