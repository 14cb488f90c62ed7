"""The log of actions: one line for each, whatever came of it, and for each that was refused."""

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Lock

import cherrypy

from mc.errors import ControllerError
from mc.machine.machines import Machine
from mc.monitoring.metrics import Metrics
from mc.web.problems import Problem

log = logging.getLogger("mc.action")
_aside = logging.getLogger(__name__)

# No machine's name is longer, and hardly a sentence of libvirt's.
_LONGEST_TEXT = 500
_WORD = re.compile(r"[A-Za-z0-9][\w.@+-]{0,63}", re.ASCII)


@dataclass
class Entry:
    """What is known of an action so far; `used` are the parameters as they count."""

    verb: str
    machine: str
    used: Mapping[str, object] = field(default_factory=dict)
    host: str = ""
    uuid: str = "-"
    outcome: str = "failed"
    detail: str = ""
    done: Sequence[str] = ()
    began: float = field(default_factory=time.monotonic)

    def finish(self, machine: Machine, *, now: str, done: Sequence[str]) -> None:
        """Note how it ended well: `now` is the state after it, `done` the virsh commands given."""
        self.machine, self.uuid, self.done = machine.name, machine.uuid, done
        self.outcome = "changed" if done else "unchanged"
        self.detail = f", {now}"

    def fail(self, error: ControllerError) -> None:
        """Note how it failed, and on which machine, if one was found."""
        self.machine, self.uuid = error.name or self.machine, error.uuid or self.uuid
        self.outcome, self.detail, self.done = type(error).__name__, f": {error}", error.done

    def refuse(self, problem: Problem) -> None:
        """Note that it never began."""
        self.outcome = problem.status.name.title().replace("_", "")
        self.detail = f": {problem.detail}"

    def write(self) -> None:
        """Log it as one line: a verb, then `key=value`, of which new ones come last."""
        request = cherrypy.serving.request
        words = {
            "client": request.remote.ip,
            "user": _word(request.login) if request.login else "-",
            "machine": quoted(self.machine),
            "uuid": self.uuid,
            "outcome": quoted(self.outcome + self.detail),
            "ms": int((time.monotonic() - self.began) * 1000),
            **{name: _value(value) for name, value in self.used.items()},
        }
        if self.done:
            words["done"] = ",".join(self.done)
        if self.host:
            words["host"] = self.host
        log.info("%s %s", self.verb, " ".join(f"{key}={value}" for key, value in words.items()))


def quoted(text: str) -> str:
    """A text for the log: it may hold blanks, line ends and colour codes, and be as long as a URL.

    >>> quoted("a b")
    '"a b"'
    """
    return json.dumps(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ...")


def _word(text: str) -> str:
    """A text that is nearly always a plain word, and quoted if it is not.

    >>> _word("admin"), _word("a b"), _word("-")
    ('admin', '"a b"', '"-"')
    """
    return text if _WORD.fullmatch(text) else quoted(text)


def _value(value: object) -> str:
    """The value of a parameter.

    >>> _value(True), _value(15.0), _value(0.25), _value("pxe")
    ('true', '15', '0.25', 'pxe')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else _word(str(value))


@contextmanager
def journal(
    verb: str, machine: str, metrics: Metrics, used: Mapping[str, object]
) -> Iterator[Entry]:
    """Log and count the action in the block when it is over.

    The log tells who, machine, UUID, verb, outcome, time, parameters, and the commands given.
    """
    entry = Entry(verb, machine, used)
    try:
        yield entry
    except ControllerError as error:
        entry.fail(error)
        raise
    finally:
        entry.write()
        metrics.action(verb, entry.outcome)


class Refusals:
    """The same log, for actions that were refused before they began.

    Of those that were forbidden only so many are logged in so many seconds, and how many there were
    beside: a page of a stranger's, in a user's browser, may try as often as it likes.
    """

    def __init__(self, most: int = 250, seconds: float = 60.0) -> None:
        self._most = most
        self._seconds = seconds
        self._lock = Lock()
        self._until = 0.0
        self._logged = 0
        self._left_out = 0

    @contextmanager
    def logged(self, verb: str, machine: str) -> Iterator[None]:
        """Log a `Problem` that ends the block."""
        entry = Entry(verb, machine)
        try:
            yield
        except Problem as problem:
            if problem.status != HTTPStatus.FORBIDDEN or self._is_one_of_few():
                entry.refuse(problem)
                entry.write()
            raise

    def _is_one_of_few(self) -> bool:
        now = time.monotonic()
        with self._lock:
            if now >= self._until:
                if self._left_out:
                    _aside.warning("forbidden actions that are not logged: %d", self._left_out)
                self._until, self._logged, self._left_out = now + self._seconds, 0, 0
            self._logged += 1
            self._left_out += self._logged > self._most
            return self._logged <= self._most
