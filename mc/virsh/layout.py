"""How many sessions a host may have, and for what."""

from dataclasses import dataclass

# Seconds that no healthy read takes.
_READ_PATIENCE = 0.1
# How many times as many sessions as are kept may be opened when those kept are stuck.
_BURST = 4
# Sessions that take pictures of screens. QEMU draws one in 10 to 40 ms.
_PICTURE_SESSIONS = 2


@dataclass(frozen=True)
class Bounds:
    """Of a pool: at most `limit` sessions, of which `keep` stay open however long they are idle.

    Up to `keep`, and one in any case, are opened as they are needed. When all are taken, a caller
    waits for one; after `patience` seconds it opens another, so that commands stuck on one machine
    delay nobody else.
    """

    keep: int
    limit: int
    patience: float = _READ_PATIENCE


@dataclass(frozen=True)
class Layout:
    """The pools of a host, apart from each other. What has none is done by those that read.

    A command on one machine may take half a minute and stalls reads of all machines meanwhile, and
    no status waits until a picture is drawn. `waiting`: requests that may wait for a session;
    `idle_seconds`: after which a session ends that is not to be kept.
    """

    reading: Bounds
    listing: Bounds | None = None
    acting: Bounds | None = None
    drawing: Bounds | None = None
    waiting: int = 8
    idle_seconds: float = 60.0


def for_the_only_host(read_sessions: int, action_sessions: int, actions_at_once: int) -> Layout:
    """With plenty of everything: none of so many actions at once waits or is refused."""
    return Layout(
        reading=Bounds(read_sessions, _BURST * read_sessions),
        listing=Bounds(1, _BURST),
        acting=Bounds(action_sessions, max(action_sessions, actions_at_once), patience=0),
        drawing=Bounds(_PICTURE_SESSIONS, _BURST * _PICTURE_SESSIONS),
        waiting=max(Layout.waiting, actions_at_once),
    )


FOR_ONE_OF_MANY = Layout(
    reading=Bounds(1, 4), acting=Bounds(0, 3, patience=0), drawing=Bounds(0, 1)
)
"""At most 8 sessions, below the 10 that sshd grants one connection (`MaxSessions`)."""
