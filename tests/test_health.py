"""The health check: true, quick, discreet, and open to everybody."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mc import __version__
from mc.errors import Refused, Stopping
from mc.health import Health
from mc.turns import Places
from mc.users import add_user
from tests.daemon import Daemon
from tests.hypervisor import open_virsh
from tests.lab import Laboratory, until

OK, UNAUTHORIZED, UNAVAILABLE = 200, 401, 503
PATH = "/healthz"
NOWHERE = "qemu+unix:///session?socket=/nonexistent/sock"


@pytest.fixture
def daemon(fragile: Laboratory) -> Iterator[Daemon]:
    with Daemon("--connect", fragile.uri) as daemon:
        yield daemon


def well(daemon: Daemon) -> bool:
    """Whether it says that all is well; whatever it says is well formed."""
    answer = daemon.get(PATH)
    if answer.status == OK:
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == {"status": "ok", "version": __version__, "libvirt": "reachable"}
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
    assert well(daemon)


def test_daemon_that_has_never_reached_libvirt() -> None:
    with Daemon("--connect", NOWHERE) as daemon:
        assert not well(daemon)
        assert daemon.request("HEAD", PATH).status == UNAVAILABLE


def test_it_needs_no_user(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "admin", "secret")
    users = ("--users", str(tmp_path / "users"))
    with Daemon("--connect", "test:///default", *users) as daemon:
        assert daemon.get("/").status == UNAUTHORIZED
        assert well(daemon)


def test_libvirt_is_asked_each_time_and_cheaply(fragile: Laboratory, daemon: Daemon) -> None:
    for _ in range(3):
        assert well(daemon)
    assert daemon.request("HEAD", PATH).status == OK
    assert daemon.virsh_commands() == ["hostname"] * 4


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
        assert Health(virsh, Places(1)).reachable()


def test_controller_that_is_stopping_reaches_nothing() -> None:
    virsh = open_virsh("test:///default")
    virsh.close()
    with pytest.raises(Stopping):
        virsh.hostname()
    assert not Health(virsh, Places(1)).reachable()
