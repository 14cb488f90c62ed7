"""The log of actions: one line for each, whatever came of it."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cherrypy

from mc.errors import ControllerError
from mc.machines import Machine
from mc.metrics import Metrics

log = logging.getLogger("mc.action")

# No machine's name is longer, and hardly a sentence of libvirt's.
_LONGEST_TEXT = 500


@dataclass
class Entry:
    """What is known of an action so far."""

    machine: str
    uuid: str = "-"
    outcome: str = "failed"
    detail: str = ""

    def finish(self, machine: Machine, *, changed: bool, now: str) -> None:
        """Note how the action ended well: `now` is the state after it."""
        self.machine, self.uuid = machine.name, machine.uuid
        self.outcome = "changed" if changed else "unchanged"
        self.detail = f", {now}"


def quoted(text: str) -> str:
    """A text for the log: it may hold blanks, line ends and colour codes, and be as long as a URL.

    >>> quoted("a b")
    '"a b"'
    """
    return json.dumps(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ...")


@contextmanager
def journal(verb: str, machine: str, metrics: Metrics) -> Iterator[Entry]:
    """Log and count the action in the block when it is over.

    The log tells who, machine, UUID, verb, outcome, time.
    """
    entry = Entry(machine)
    start = time.monotonic()
    try:
        yield entry
    except ControllerError as error:
        entry.uuid = error.uuid or entry.uuid
        entry.outcome, entry.detail = type(error).__name__, f": {error}"
        raise
    finally:
        request = cherrypy.serving.request
        log.info(
            "%s client=%s user=%s machine=%s uuid=%s outcome=%s ms=%d",
            verb,
            request.remote.ip,
            request.login or "-",
            quoted(entry.machine),
            entry.uuid,
            quoted(entry.outcome + entry.detail),
            (time.monotonic() - start) * 1000,
        )
        metrics.action(verb, entry.outcome)
