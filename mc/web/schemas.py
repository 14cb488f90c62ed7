"""What the answers look like, as JSON Schema (draft 2020-12), and which errors there are."""

from http import HTTPStatus
from typing import Any

from mc.machines import STATES


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object that has just these members."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
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
    name=_TEXT,
    version=_TEXT,
    libvirt=_TEXT,
    machines=_TEXT,
    machine=_TEXT,
    status=_TEXT,
    boot=_TEXT,
    screenshot=_TEXT,
    verbs=_TEXT,
    events=_TEXT,
)
MACHINE = _object(
    id={"type": ["integer", "null"]}, name=_TEXT, uuid=_UUID, state=_STATE, power=_POWER
)
MACHINES = {"type": "array", "items": MACHINE}
STATUS = _object(state=_STATE, power=_POWER, reason=_TEXT)
STATE_CONTROLLER = _object(
    machine=_TEXT,
    uuid=_UUID,
    status=_TEXT,
    verbs={"type": "object", "additionalProperties": _TEXT},
)
_BOOT: dict[str, dict[str, Any]] = {
    "order": _TEXTS,
    "pending": _YES_OR_NO,
    "once": {"type": ["string", "null"]},
    "default": _TEXTS,
}
BOOT = _object(**_BOOT)
BOOT_SET = _object(machine=_TEXT, uuid=_UUID, changed=_YES_OR_NO, **_BOOT)
OUTCOME = _object(
    machine=_TEXT,
    uuid=_UUID,
    action=_TEXT,
    changed=_YES_OR_NO,
    state=_STATE,
    power=_POWER,
    reason=_TEXT,
)
HEALTH = _object(status=_one_of("ok"), version=_TEXT, libvirt=_one_of("reachable"))

BOOT_ERRORS = (HTTPStatus.CONFLICT,)
ACTION_ERRORS = (HTTPStatus.CONFLICT, HTTPStatus.INSUFFICIENT_STORAGE)
BOOT_ACTION_ERRORS = ACTION_ERRORS
