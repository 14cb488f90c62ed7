"""Machines that come, go and are twice on real hosts, while one daemon manages these."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.lab import Laboratory, until
from tests.test_hosts import settings

OK, NOT_FOUND, CONFLICT = 200, 404, 409
UUID = "5c6f2a1e-53a8-4b0e-9a7d-6d6300000001"


@pytest.fixture(scope="module")
def a() -> Iterator[Laboratory]:
    with Laboratory() as lab:
        yield lab


@pytest.fixture(scope="module")
def b() -> Iterator[Laboratory]:
    with Laboratory() as lab:
        yield lab


@pytest.fixture(scope="module")
def daemon(
    a: Laboratory, b: Laboratory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    file = settings(tmp_path_factory.mktemp("hosts"), {"a": a.uri, "b": b.uri})
    with Daemon("--config", str(file)) as daemon:
        until(
            lambda: [one["state"] for one in daemon.get("/hosts").json] == ["up"] * 2, 30, "hosts"
        )
        yield daemon


@pytest.fixture(autouse=True)
def empty(a: Laboratory, b: Laboratory) -> Iterator[None]:
    yield
    for lab in (a, b):
        for name in filter(None, lab.virsh("list", "--name").split("\n")):
            lab.virsh("destroy", name)
        for name in filter(None, lab.virsh("list", "--all", "--name").split("\n")):
            lab.virsh("undefine", name)


def define(lab: Laboratory, folder: Path, name: str = "x", uuid: str = UUID) -> None:
    """A machine that does nothing, by virsh."""
    file = folder / "domain.xml"
    file.write_text(
        f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory>16384</memory>"
        "<os><type machine='pc'>hvm</type></os></domain>"
    )
    file.chmod(0o644)
    lab.virsh("define", str(file))


def test_uuid_that_comes_to_run_elsewhere_is_found_there(
    a: Laboratory, b: Laboratory, daemon: Daemon, tmp_path: Path
) -> None:
    define(a, tmp_path)
    assert daemon.get(f"/service/{UUID}").json["host"] == "a"
    define(b, tmp_path)
    b.virsh("start", "x")
    assert daemon.get(f"/service/{UUID}").json["host"] == "b"
    b.virsh("destroy", "x")
    until(lambda: daemon.get(f"/service/{UUID}").status == CONFLICT, 30, "two that are off")


def test_name_that_comes_to_be_twice_is_a_conflict(
    a: Laboratory, b: Laboratory, daemon: Daemon, tmp_path: Path
) -> None:
    define(a, tmp_path)
    assert daemon.get("/service/x").status == OK
    define(b, tmp_path, uuid=UUID.replace("1", "2"))
    assert daemon.act("x", "power_on").status == CONFLICT
    b.virsh("undefine", "x")
    assert daemon.get("/service/x").json["host"] == "a"


def test_machine_that_has_gone_to_another_host_is_found_while_the_first_is_down(
    a: Laboratory, b: Laboratory, daemon: Daemon, tmp_path: Path
) -> None:
    define(a, tmp_path)
    assert daemon.get("/service/x").json["host"] == "a"
    define(b, tmp_path)
    a.virsh("undefine", "x")
    until(lambda: daemon.get("/hosts/a").json["machines"] == 0, 30, "host without machines")
    a.libvirtd.kill()
    try:
        until(lambda: daemon.get("/hosts/a").json["state"] == "down", 30, "host that is down")
        assert daemon.get("/service/x").json["host"] == "b"
        assert daemon.get(f"/service/{UUID}").json["host"] == "b"
    finally:
        a.libvirtd.start()
    until(lambda: daemon.get("/hosts/a").json["state"] == "up", 30, "host that is up")


def test_name_is_not_taken_for_another_that_looks_like_it(
    a: Laboratory, b: Laboratory, daemon: Daemon, tmp_path: Path
) -> None:
    define(a, tmp_path, "web1")
    assert daemon.get("/service/web1").status == OK
    assert daemon.get("/service/web-1").status == NOT_FOUND


def test_change_that_somebody_else_makes_while_a_boot_is_set_is_not_lost(
    a: Laboratory, daemon: Daemon, tmp_path: Path
) -> None:
    """Where QEMU's events have to be heard first, which takes a while."""
    machine = a.define("boots")
    until(lambda: daemon.get("/service/boots").status == OK, 30, "the machine")
    until(lambda: daemon.stream("qemu-monitor-event") is None, 90, "end of the streams")
    answers: list[int] = []
    thread = threading.Thread(
        target=lambda: answers.append(
            daemon.request("PUT", "/service/boots/boot?device=disk&once=true").status
        )
    )
    thread.start()
    # Nothing has been read before they are heard.
    until(lambda: daemon.stream("qemu-monitor-event"), 30, "stream that connects")
    machine.virsh("desc", "--config", "--title", "changed")
    thread.join()
    assert answers == [OK]
    assert "<title>changed</title>" in machine.xml()
