"""Parameters in the body of an action count, whatever its method, or are refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.hypervisor import DEVICES, hypervisor

OK, BAD_REQUEST = 200, 400
PATH = "/service/vm/state_controller/pxeboot"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    uri = hypervisor(tmp_path / "machines.xml", [("vm", "shut off")], DEVICES)
    with Daemon("--connect", uri, "--backup-dir", str(tmp_path / "backups")) as daemon:
        yield daemon


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"onec": true}', "onec"),
        (b'{"once": true, "once": false}', "twice"),
        (b"once=true", "forms are not taken"),
        (b"[]", "not a JSON object"),
    ],
)
def test_what_cannot_be_understood_does_nothing(
    daemon: Daemon, method: str, body: bytes, words: str
) -> None:
    answer = daemon.request(method, PATH, body)
    assert answer.status == BAD_REQUEST, answer
    assert words in answer.json["detail"]
    assert daemon.status("vm")["state"] == "shut off"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_boot_for_once_is_no_boot_for_ever(daemon: Daemon, method: str) -> None:
    assert daemon.request(method, PATH, b'{"once": true, "grace": 1}').status == OK
    told = daemon.get("/service/vm/boot").json
    assert (told["running_once"], told["device"]) == ("pxe", None)
