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

log = logging.getLogger("mc.action")


@dataclass
class Entry:
    """What is known of an action so far."""

    machine: str
    uuid: str = "-"
    outcome: str = "failed"

    def finish(self, machine: Machine, *, changed: bool, now: str) -> None:
        """Note how the action ended well: `now` is the state after it."""
        self.machine, self.uuid = machine.name, machine.uuid
        self.outcome = f"{'changed' if changed else 'unchanged'}, {now}"


@contextmanager
def journal(verb: str, machine: str) -> Iterator[Entry]:
    """Log the action in the block when it is over: who, machine, UUID, verb, outcome, time."""
    entry = Entry(machine)
    start = time.monotonic()
    try:
        yield entry
    except ControllerError as error:
        entry.uuid = error.uuid or entry.uuid
        entry.outcome = f"{type(error).__name__}: {error}"
        raise
    finally:
        request = cherrypy.serving.request
        log.info(
            "%s client=%s user=%s machine=%s uuid=%s outcome=%s ms=%d",
            verb,
            request.remote.ip,
            request.login or "-",
            # Quoted: names and libvirt's words may hold blanks, line ends and colour codes.
            json.dumps(entry.machine),
            entry.uuid,
            json.dumps(entry.outcome),
            (time.monotonic() - start) * 1000,
        )
