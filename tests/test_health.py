"""The health check: true, quick, discreet, and open to everybody."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from mc import __version__
from mc.errors import Refused, Stopping
from mc.machine.turns import Places
from mc.monitoring import health
from mc.monitoring.health import Folder, Health, Report
from mc.users import add_user
from tests.daemon import Daemon
from tests.hypervisor import open_virsh
from tests.lab import Laboratory, until

OK, UNAUTHORIZED, UNAVAILABLE = 200, 401, 503
PATH = "/healthz"
WRITABLE = Folder(lambda: None)
NOWHERE = "qemu+unix:///session?socket=/nonexistent/sock"


@pytest.fixture
def backups(tmp_path: Path) -> tuple[str, str]:
    """The option for a folder that can be written."""
    return "--backup-dir", str(tmp_path / "backups")


@pytest.fixture
def daemon(fragile: Laboratory, backups: tuple[str, str]) -> Iterator[Daemon]:
    with Daemon("--connect", fragile.uri, *backups) as daemon:
        yield daemon


def well(daemon: Daemon) -> bool:
    """Whether it says that all is well; whatever it says is well formed."""
    answer = daemon.get(PATH)
    if answer.status == OK:
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == {
            "status": "ok",
            "version": __version__,
            "libvirt": "reachable",
            "backups": True,
        }
        return True
    assert answer.status == UNAVAILABLE, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.json == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": UNAVAILABLE,
        "detail": "libvirt does not answer",
        "version": __version__,
        "libvirt": "unreachable",
        "backups": True,
    }
    return False


def test_libvirtd_that_is_killed_and_started(fragile: Laboratory, daemon: Daemon) -> None:
    for _ in range(3):
        assert well(daemon)
        fragile.libvirtd.kill()
        assert not well(daemon)
        assert not well(daemon)
        fragile.libvirtd.start()
        assert well(daemon)


def test_libvirtd_that_stops_answering(fragile: Laboratory, daemon: Daemon) -> None:
    """Both for a session that is connected and for one that connects."""
    assert well(daemon)
    fragile.libvirtd.freeze()
    assert not well(daemon)
    assert not well(daemon)
    fragile.libvirtd.thaw()
    # Nobody waits for a libvirt that has not answered but the prober, who finds it.
    until(lambda: well(daemon), 30, "libvirt")


def test_daemon_that_has_never_reached_libvirt(backups: tuple[str, str]) -> None:
    with Daemon("--connect", NOWHERE, *backups) as daemon:
        assert not well(daemon)
        assert daemon.request("HEAD", PATH).status == UNAVAILABLE


def test_it_needs_no_user(tmp_path: Path, backups: tuple[str, str]) -> None:
    add_user(tmp_path / "users", "admin", "secret")
    users = ("--users", str(tmp_path / "users"))
    with Daemon("--connect", "test:///default", *users, *backups) as daemon:
        assert daemon.get("/").status == UNAUTHORIZED
        assert well(daemon)


def test_libvirt_is_asked_each_time_and_cheaply(fragile: Laboratory, daemon: Daemon) -> None:
    def looked() -> bool:
        """Whether it has looked, once, which one-time boots have ended: no machine is off."""
        words = {command.split(" ", 1)[0] for command in daemon.virsh_commands()}
        return words >= {"domstats", "list"}

    until(looked, 30, "look at all machines")
    before = len(daemon.virsh_commands())
    for _ in range(3):
        assert well(daemon)
    assert daemon.request("HEAD", PATH).status == OK
    # Whoever looks around may ask other things meanwhile, and the prober the same.
    assert daemon.virsh_commands()[before:].count("hostname") >= 4


def test_answer_tells_strangers_nothing_of_libvirt(fragile: Laboratory, daemon: Daemon) -> None:
    fragile.libvirtd.kill()
    answer = daemon.get(PATH)
    fragile.libvirtd.start()
    until(lambda: well(daemon), 30, "health")
    for word in (b"socket", b"qemu", b"sock", b"connect", str(fragile.folder).encode()):
        assert word not in answer.body
        assert word not in daemon.get(PATH).body


def test_libvirt_that_refuses_to_answer_is_there(lab: Laboratory) -> None:
    """Its driver of secrets knows no host name, and says so."""
    with closing(open_virsh(lab.uri.replace("qemu+", "secret+"))) as virsh:
        with pytest.raises(Refused, match="not supported"):
            virsh.hostname()
        assert Health(virsh.hostname, WRITABLE, Places(1)).report() == Report(
            libvirt=True, backups=True
        )


def test_controller_that_is_stopping_reaches_nothing() -> None:
    virsh = open_virsh("test:///default")
    virsh.close()
    with pytest.raises(Stopping):
        virsh.hostname()
    assert Health(virsh.hostname, WRITABLE, Places(1)).report() == Report(
        libvirt=False, backups=True
    )


@pytest.mark.parametrize("uri", ["test:///default", NOWHERE])
def test_folder_that_cannot_be_written_is_told_until_it_can(tmp_path: Path, uri: str) -> None:
    """It is no failure: whoever only reads, or switches power, misses nothing."""
    folder = tmp_path / "backups"
    folder.write_text("in its place")
    with Daemon("--connect", uri, "--backup-dir", str(folder)) as daemon:
        for backups in (False, True, True):
            answer = daemon.get(PATH)
            assert answer.status == (OK if uri != NOWHERE else UNAVAILABLE)
            assert answer.json["backups"] is backups
            assert (
                f'libvirt_mc_backups_writable{{host="local"}} {backups:d}.0'
                in daemon.get("/metrics").body.decode()
            )
            # Nothing of where it is, and why it cannot be written, to strangers.
            assert b"folder" not in answer.body
            assert bytes(tmp_path) not in answer.body
            if not backups:
                folder.unlink()
        assert not folder.exists()


def test_folder_that_does_not_answer_holds_one_thread_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one on a network whose server is away."""
    monkeypatch.setattr(health, "_FOLDER_PATIENCE", 0.05)
    asked: list[None] = []
    answers = Event()

    def trouble() -> str | None:
        asked.append(None)
        answers.wait()
        return None

    folder = Folder(trouble)
    for _ in range(5):
        assert not folder.writable()
    assert len(asked) == 1
    answers.set()
    until(folder.writable, 30, "answer")


def test_crowd_is_told_what_is_known_of_the_folder(fragile: Laboratory) -> None:
    """Those who do not wait for libvirt's answer get no older one about it."""
    with closing(open_virsh(fragile.uri)) as virsh, ThreadPoolExecutor(8) as threads:
        told = Health(virsh.hostname, WRITABLE, Places(1))
        assert told.report() == Report(libvirt=True, backups=True)
        fragile.libvirtd.freeze()
        futures = [threads.submit(told.report) for _ in range(8)]
        until(lambda: sum(map(Future.done, futures)) >= 6, 30, "answers to the crowd")
        early = [future.result() for future in futures if future.done()]
        fragile.libvirtd.thaw()
        assert set(early) == {Report(libvirt=False, backups=True)}
