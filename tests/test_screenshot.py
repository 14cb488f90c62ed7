"""`GET /service/M/screenshot`: what is on a machine's screen, as PNG, or why there is nothing."""

import struct
import threading
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Answer, Daemon
from tests.hypervisor import hypervisor, uuid_of
from tests.lab import Laboratory, Machine, until

OK, NOT_FOUND, CONFLICT, TOO_LATE = 200, 404, 409, 504
PATIENCE = 30.0
VIDEO = "<video><model type='vga'/></video>"


def screenshot(daemon: Daemon, name: str) -> Answer:
    return daemon.get(f"/service/{name}/screenshot")


def size(answer: Answer) -> tuple[int, int]:
    """Width and height of a PNG that is whole."""
    assert (answer.status, answer.headers["content-type"]) == (OK, "image/png"), answer
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.body.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert answer.body.endswith(b"IEND" + struct.pack(">I", zlib.crc32(b"IEND")))
    width, height = struct.unpack_from(">II", answer.body, 16)
    return width, height


def problem(answer: Answer, status: int) -> Any:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    file = tmp_path_factory.mktemp("screens") / "machines.xml"
    with Daemon("--connect", hypervisor(file, [("on", "running"), ("off", "shut off")])) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def machine(lab: Laboratory) -> Iterator[Machine]:
    machine = lab.define("with-screen", devices=VIDEO)
    machine.boot()
    yield machine
    machine.destroy()
    machine.virsh("undefine")


def test_picture_of_the_embedded_hypervisor(daemon: Daemon) -> None:
    width, height = size(screenshot(daemon, "on"))
    assert width > 100 < height
    assert screenshot(daemon, uuid_of(0)).body == screenshot(daemon, "on").body


def test_head_is_a_get_without_the_picture(daemon: Daemon) -> None:
    answer = daemon.request("HEAD", "/service/on/screenshot")
    assert (answer.status, answer.headers["content-type"], answer.body) == (OK, "image/png", b"")


def test_machine_that_is_off_has_none(daemon: Daemon) -> None:
    assert problem(screenshot(daemon, "off"), CONFLICT)["detail"].endswith("the machine is off")


def test_machine_that_does_not_exist_has_none(daemon: Daemon) -> None:
    problem(screenshot(daemon, "nobody"), NOT_FOUND)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_only_reads(daemon: Daemon, method: str) -> None:
    answer = daemon.request(method, "/service/on/screenshot")
    assert answer.status == HTTPStatus.METHOD_NOT_ALLOWED


def test_parameter_is_refused(daemon: Daemon) -> None:
    assert daemon.get("/service/on/screenshot?screen=1").status == HTTPStatus.BAD_REQUEST


def test_picture_of_a_real_machine(daemon_on_lab: Daemon, machine: Machine) -> None:
    for _ in range(3):
        width, height = size(screenshot(daemon_on_lab, machine.name))
        # In text mode: 80 by 25 characters of 8 or 9 by 16 dots.
        assert width >= 640
        assert height >= 400


def test_machine_without_a_display_has_none(lab: Laboratory, daemon_on_lab: Daemon) -> None:
    blind = lab.define("without-screen")
    blind.boot()
    detail = problem(screenshot(daemon_on_lab, blind.name), CONFLICT)["detail"]
    assert "no screens to take screenshot from" in detail
    blind.destroy()
    assert problem(screenshot(daemon_on_lab, blind.name), CONFLICT)["detail"].endswith("is off")
    blind.virsh("undefine")


@pytest.fixture
def hanging(lab: Laboratory) -> Iterator[Machine]:
    """A machine that answers no one until it is thawed."""
    machine = lab.define("hanging", devices=VIDEO)
    machine.boot()
    machine.freeze()
    yield machine
    machine.thaw()
    machine.destroy()
    machine.virsh("undefine")


def daemon_with(lab: Laboratory, folder: Path, read_seconds: float) -> Daemon:
    """One that takes two pictures at a time."""
    config = folder / "settings.conf"
    config.write_text(f"[global]\nlibvirt.read_seconds = {read_seconds}\nserver.thread_pool = 20\n")
    return Daemon("--connect", lab.uri, "--config", str(config))


def test_machine_that_hangs_delays_nobody(
    lab: Laboratory, machine: Machine, hanging: Machine, tmp_path: Path
) -> None:
    """Neither another one's picture nor its status; but pictures are bounded in number."""
    answers: list[Answer] = []
    with daemon_with(lab, tmp_path, 2 * PATIENCE) as daemon:

        def ask() -> None:
            path = f"/service/{hanging.name}/screenshot"
            answers.append(daemon.request("GET", path, timeout=3 * PATIENCE))

        def begin(number: int) -> None:
            asking[number].start()
            until(under_way, PATIENCE, f"picture {number}", lambda uuids: len(uuids) > number)

        def under_way() -> list[str]:
            return [one for one in daemon.virsh_commands() if one in command]

        command = [f"screenshot --domain {hanging.uuid} --file /dev/fd/{fd}" for fd in range(99)]
        asking = [threading.Thread(target=ask) for _ in range(2)]
        begin(0)
        for _ in range(20):
            assert daemon.status(machine.name)["state"] == "running"
        size(screenshot(daemon, machine.name))
        begin(1)
        for _ in range(20):
            assert daemon.status(machine.name)["state"] == "running"
        refused = screenshot(daemon, machine.name)
        assert problem(refused, HTTPStatus.SERVICE_UNAVAILABLE)["detail"].endswith("may be: 2")
        assert refused.headers["retry-after"] == "1"
        assert not answers
        hanging.thaw()
        for thread in asking:
            thread.join(3 * PATIENCE)
        assert len(answers) == 2
        for answer in answers:
            size(answer)


def test_machine_that_hangs_is_told_when_it_is_too_late(
    lab: Laboratory, hanging: Machine, tmp_path: Path
) -> None:
    with daemon_with(lab, tmp_path, 1.0) as daemon:
        assert "did not answer" in problem(screenshot(daemon, hanging.name), TOO_LATE)["detail"]
        hanging.thaw()
        until(
            lambda: screenshot(daemon, hanging.name).status,
            PATIENCE,
            "picture of the machine that hung",
            lambda status: status == OK,
        )
