"""Why a machine is in a state, in the words that `virsh domstate --reason` prints."""

UNKNOWN = "unknown"
# By the number of the state (virDomainState) and that of the reason: virDomainRunningReason and
# the like in libvirt's include/libvirt/libvirt-domain.h, the words in virsh's
# tools/virsh-domain-monitor.c.
_REASONS: tuple[tuple[str, ...], ...] = (
    (),
    (
        *(UNKNOWN, "booted", "migrated", "restored", "from snapshot", "unpaused"),
        *("migration canceled", "save canceled", "event wakeup", "crashed", "post-copy"),
        "post-copy failed",
    ),
    (),
    (
        *(UNKNOWN, "user", "migrating", "saving", "dumping", "I/O error", "watchdog"),
        *("from snapshot", "shutting down", "creating snapshot", "crashed", "starting up"),
        *("post-copy", "post-copy failed", "api error"),
    ),
    (UNKNOWN, "user"),
    (
        *(UNKNOWN, "shutdown", "destroyed", "crashed", "migrated", "saved", "failed"),
        *("from snapshot", "daemon"),
    ),
    (UNKNOWN, "panicked"),
    (),
)


def reason(state: int, number: int) -> str:
    """The word for libvirt's number; one that is new here is unknown, as virsh says of such.

    >>> reason(3, 5)
    'I/O error'
    """
    words = _REASONS[state] if state < len(_REASONS) else ()
    return words[number] if number < len(words) else UNKNOWN
