"""What the answers look like, as JSON Schema (draft 2020-12), and which errors there are."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from mc.machine.machines import STATES


def _object(
    title: str, optional: Sequence[str] = (), /, **properties: dict[str, Any]
) -> dict[str, Any]:
    """An object that has just these members; the title is its name in `/openapi.json`."""
    return {
        "title": title,
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _one_of(*words: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_UUID = {"type": "string", "format": "uuid"}
_YES_OR_NO = {"type": "boolean"}
_POWER = _one_of("on", "off")
# The last two take the place of the others with service.state_words = "power".
_STATE = _one_of(*STATES, "on", "off")

INDEX = _object(
    "Index",
    ("libvirt",),
    name=_TEXT,
    version=_TEXT,
    libvirt={**_TEXT, "description": "its URI, where there is one only"},
    hosts=_TEXT,
    machines=_TEXT,
    machine=_TEXT,
    status=_TEXT,
    boot=_TEXT,
    screenshot=_TEXT,
    verbs=_TEXT,
    events=_TEXT,
    openapi=_TEXT,
    grace_seconds={"type": "number"},
)
MACHINE = _object(
    "Machine",
    host=_TEXT,
    id={"type": ["integer", "null"]},
    name=_TEXT,
    uuid=_UUID,
    state=_STATE,
    power=_POWER,
)
MACHINES = {"type": "array", "items": MACHINE}
STATUS = _object("Status", state=_STATE, power=_POWER, reason=_TEXT)
STATE_CONTROLLER = _object(
    "StateController",
    host=_TEXT,
    machine=_TEXT,
    uuid=_UUID,
    status=_TEXT,
    verbs={"type": "object", "additionalProperties": _TEXT},
)
_DEVICE = {"type": ["string", "null"]}
_BOOT: dict[str, dict[str, Any]] = {
    "order": _TEXTS,
    "pending": _YES_OR_NO,
    "device": _DEVICE,
    "once": _DEVICE,
    "running_once": _DEVICE,
    "ended_once": _DEVICE,
    "default": _TEXTS,
}
BOOT = _object("Boot", **_BOOT)
BOOT_SET = _object("BootSet", host=_TEXT, machine=_TEXT, uuid=_UUID, changed=_YES_OR_NO, **_BOOT)
OUTCOME = _object(
    "Outcome",
    host=_TEXT,
    machine=_TEXT,
    uuid=_UUID,
    action=_TEXT,
    changed=_YES_OR_NO,
    state=_STATE,
    power=_POWER,
    reason=_TEXT,
)
_TIME = {"type": "string", "format": "date-time"}
HOST = _object(
    "Host",
    ("detail",),
    name=_TEXT,
    state=_one_of("up", "connecting", "down"),
    since=_TIME,
    machines={"type": ["integer", "null"], "description": "how many; null if it never told"},
    detail={**_TEXT, "description": "why it is down, in libvirt's own words"},
    url=_TEXT,
)
HOSTS = {"type": "array", "items": HOST}
HEALTH = _object(
    "Health",
    status=_one_of("ok"),
    version=_TEXT,
    libvirt=_one_of("reachable"),
    backups={**_YES_OR_NO, "description": "whether the backup folder can be written"},
)
# RFC 9457, section 3, with members of ours; a client has to bear with more.
PROBLEM = {
    "title": "Problem",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": _TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {**_TEXT, "description": "what is wrong, in libvirt's own words if they are its"},
        "parameter": {**_TEXT, "description": "the parameter that is at fault"},
        "verbs": {**_TEXTS, "description": "the verbs that there are"},
        "uuid": {**_UUID, "description": "the machine that an action was about"},
        "outcome": {"const": "unknown", "description": "a command was sent; no answer ever came"},
        "done": {**_TEXTS, "description": "the virsh commands that had succeeded before"},
        "backups": {**_YES_OR_NO, "description": "whether the backup folder can be written"},
        "host": {**_TEXT, "description": "the host that is down or busy"},
        "since": {**_TIME, "description": "when it went down"},
        "hosts": {**_TEXTS, "description": "the hosts that did not answer"},
        "urls": {**_TEXTS, "description": "those of the machines that could be meant"},
    },
    "required": ["type", "title", "status", "detail"],
}

VARIABLES: dict[str, dict[str, Any]] = {
    "machine": {
        "description": "a machine's name or UUID; by the UUID where the name means something else",
        "schema": {"type": "string", "minLength": 1},
    },
    "host": {
        "description": "a host's name",
        "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9.-]*$"},
    },
}
"""What may stand for each variable in a URL."""

# Any question to libvirt may be refused, find it away, or get no answer in time.
LIBVIRT_ERRORS = (
    HTTPStatus.CONFLICT,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
HOST_ERRORS = (HTTPStatus.NOT_FOUND,)
LIST_ERRORS = (*HOST_ERRORS, *LIBVIRT_ERRORS)
MACHINE_ERRORS = (HTTPStatus.NOT_FOUND, *LIBVIRT_ERRORS)
ACTION_ERRORS = (*MACHINE_ERRORS, HTTPStatus.INSUFFICIENT_STORAGE)
