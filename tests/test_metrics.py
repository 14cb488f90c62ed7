"""What Prometheus reads: true, complete, and bounded whatever clients send."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from requests.auth import HTTPDigestAuth

from mc import __version__
from mc.machine.machines import STATES
from mc.monitoring.metrics import Metrics
from mc.users import add_user
from tests.daemon import Daemon
from tests.hypervisor import hypervisor, uuid_of
from tests.lab import Laboratory, until

OK, UNAUTHORIZED = 200, 401
STATUS_ROUTE = "/service/{machine}/state_controller/status"
Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


def labels(**values: str) -> Labels:
    return frozenset(values.items())


def parsed(text: bytes) -> Samples:
    return {
        (sample.name, labels(**sample.labels)): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scrape(daemon: Daemon) -> Samples:
    """The samples by name and labels, as Prometheus' own parser reads them."""
    answer = daemon.get("/metrics")
    assert answer.status == OK, answer
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(answer.body)


def value(samples: Samples, name: str, **values: str) -> float:
    return samples.get((name, labels(**values)), 0)


def by_label(samples: Samples, name: str, label: str) -> dict[str, float]:
    """The samples of a name by one of its labels, where each other one has one value."""
    return {dict(key)[label]: number for (found, key), number in samples.items() if found == name}


def requested(samples: Samples, route: str, method: str = "GET", status: int = OK) -> float:
    return value(
        samples, "libvirt_mc_requests_total", route=route, method=method, status=str(status)
    )


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    machines = [("vm", "running"), ("other", "running"), ("off", "shut off"), ("p", "paused")]
    uri = hypervisor(tmp_path / "node.xml", [*machines, ("secret", "crashed")])
    settings = tmp_path / "settings.conf"
    settings.write_text("[global]\nlibvirt.machines = ['vm', 'o*', 'p']\n")
    with Daemon(
        *("--connect", uri, "--config", str(settings), "--backup-dir", str(tmp_path / "backups"))
    ) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def fragile() -> Iterator[Laboratory]:
    """A laboratory of one's own, to break."""
    with Laboratory() as laboratory:
        laboratory.define("one")
        laboratory.define("two").start()
        yield laboratory


@pytest.fixture
def running(fragile: Laboratory) -> Iterator[Laboratory]:
    """All of whose machines run."""
    fragile.virsh("start", "one")
    yield fragile
    fragile.virsh("destroy", "one")


@pytest.fixture
def daemon_on_fragile(fragile: Laboratory) -> Iterator[Daemon]:
    with Daemon("--connect", fragile.uri) as daemon:
        yield daemon


def test_version_that_runs_is_told(daemon: Daemon) -> None:
    assert value(scrape(daemon), "libvirt_mc_build_info", version=__version__) == 1


def test_requests_are_counted_by_route_method_and_status(daemon: Daemon) -> None:
    for name in ("vm", "off", uuid_of(0), "nobody", "nobody"):
        daemon.act(name, "status")
    daemon.request("HEAD", "/service/vm/")
    daemon.request("DELETE", "/service/vm")
    daemon.request("GET", "/service/vm?x=1")
    daemon.request("OPTIONS", "/service/vm")
    samples = scrape(daemon)
    assert requested(samples, STATUS_ROUTE) == 3
    assert requested(samples, STATUS_ROUTE, status=404) == 2
    assert requested(samples, "/service/{machine}", "HEAD") == 1
    assert requested(samples, "/service/{machine}", "DELETE", 405) == 1
    assert requested(samples, "/service/{machine}", status=400) == 1
    assert requested(samples, "/service/{machine}", "OPTIONS", 204) == 1
    assert requested(samples, "/metrics") == 0
    assert requested(scrape(daemon), "/metrics") == 1


def test_clients_cannot_make_up_series(daemon: Daemon) -> None:
    def ask(number: int) -> None:
        daemon.request("GET", f"/service/m{number}")
        daemon.request("GET", f"/x/{number}")
        daemon.request(f"VERB{number}", "/service/vm")
        daemon.request("GET", f"/service/vm/state_controller/v{number}")
        daemon.request("POST", f"/service/m{number}/state_controller/nmi")
        daemon.request("GET", "/service/vm", headers={"Host": f"host-{number}.example"})
        daemon.request("GET", "/?a=%ff", headers={"X-Odd": f"{number}"})

    ask(0)
    scrape(daemon)
    before = set(scrape(daemon))
    for number in range(1, 30):
        ask(number)
    samples = scrape(daemon)
    assert set(samples) == before
    assert requested(samples, "other", status=404) == 30
    assert requested(samples, "/service/{machine}", "other", 405) == 30
    assert requested(samples, "/service/{machine}/state_controller/{verb}", status=404) == 30


def test_actions_are_counted_by_verb_and_outcome(daemon: Daemon) -> None:
    for name, verb in [
        *(("vm", "force_off"), ("vm", "force_off"), ("vm", "force_off"), ("vm", "power_on")),
        *(("off", "nmi"), ("nobody", "nmi"), ("secret", "nmi"), ("p", "power_off")),
    ]:
        daemon.act(name, verb)
    daemon.request("PUT", "/service/vm/boot", b'{"device": "pxe"}')
    samples = scrape(daemon)

    def actions(verb: str, outcome: str) -> float:
        return value(samples, "libvirt_mc_actions_total", verb=verb, outcome=outcome)

    assert actions("force_off", "changed") == 1
    assert actions("force_off", "unchanged") == 2
    assert actions("power_on", "changed") == 1
    assert actions("nmi", "WrongState") == 1
    assert actions("nmi", "NoSuchMachine") == 2
    assert actions("power_off", "WrongState") == 1
    assert actions("boot", "CannotBoot") == 1
    assert sum(count for (name, _), count in samples.items() if name.endswith("actions_total")) == 9


def test_virsh_commands_are_timed(daemon: Daemon) -> None:
    for name in ("vm", "off", "old", "nobody"):
        daemon.act(name, "status")
    daemon.act("vm", "power_cycle")
    samples = scrape(daemon)
    lines = daemon.virsh_commands()
    given = Counter(line.split(" ", 1)[0] for line in lines)
    # The list of all machines is asked for by one line of two commands, and timed as one.
    given["domstats"] -= lines.count("domstats --state --nowait")
    # The scrape has its own, which it cannot tell of, since it is the last.
    given["list"] -= 1
    name = "libvirt_mc_virsh_command_seconds"
    told = by_label(samples, f"{name}_count", "command")
    assert told == given
    assert given.keys() >= {"domstate", "domid", "list", "destroy", "start"}
    for command in told:
        assert value(samples, f"{name}_sum", command=command) > 0
        assert value(samples, f"{name}_bucket", command=command, le="+Inf") == told[command]


def test_machines_are_counted_by_state(daemon: Daemon) -> None:
    """Those that the patterns leave out do not count; every state is there."""
    samples = scrape(daemon)
    expected = dict.fromkeys(STATES, 0.0) | {"running": 2, "shut off": 1, "paused": 1}
    assert by_label(samples, "libvirt_mc_machines", "state") == expected
    assert value(samples, "libvirt_up", host="local") == 1
    daemon.act("vm", "force_off")
    expected |= {"running": 1, "shut off": 2}
    assert by_label(scrape(daemon), "libvirt_mc_machines", "state") == expected


def test_sessions_are_told(running: Laboratory, daemon_on_fragile: Daemon) -> None:
    daemon = daemon_on_fragile

    def looked() -> bool:
        """Whether it has looked which one-time boots have ended: no machine is off."""
        words = {command.split(" ", 1)[0] for command in daemon.virsh_commands()}
        return words >= {"domstats", "list"}

    until(looked, 30, "look at all machines")
    daemon.act("one", "status")
    daemon.act("two", "nmi")
    samples = scrape(daemon)
    # Whoever looks back may read at the same time.
    for pool, most in (("read", 2), ("list", 1), ("act", 1)):
        assert 1 <= value(samples, "libvirt_mc_sessions_open", host="local", pool=pool) <= most
        assert (
            1
            <= value(samples, "libvirt_mc_sessions_started_total", host="local", pool=pool)
            <= most
        )
        assert value(samples, "libvirt_mc_sessions_lost_total", host="local", pool=pool) == 0
    for pid in daemon.children():
        os.kill(pid, signal.SIGKILL)
    daemon.act("one", "status")
    samples = scrape(daemon)
    for pool, fewest, most in (("read", 1, 2), ("list", 1, 1), ("act", 0, 0)):
        lost = value(samples, "libvirt_mc_sessions_lost_total", host="local", pool=pool)
        assert fewest <= lost <= most
        assert value(samples, "libvirt_mc_sessions_started_total", host="local", pool=pool) > lost


def comes_up(daemon: Daemon) -> None:
    """What was away is tried again by itself, and everything is there once it is back."""

    def is_up() -> bool:
        return scrape(daemon)["libvirt_up", labels(host="local")] == 1

    until(is_up, 30, "libvirt that is up")
    up(daemon)


def down(daemon: Daemon) -> None:
    """libvirt is away, and that is all that is missing."""
    samples = scrape(daemon)
    assert samples["libvirt_up", labels(host="local")] == 0
    assert not by_label(samples, "libvirt_mc_machines", "state")
    assert value(samples, "libvirt_mc_build_info", version=__version__) == 1
    pools = by_label(samples, "libvirt_mc_sessions_open", "pool").keys()
    assert pools == {"read", "list", "act", "draw"}


def up(daemon: Daemon) -> None:
    samples = scrape(daemon)
    assert samples["libvirt_up", labels(host="local")] == 1
    machines = by_label(samples, "libvirt_mc_machines", "state")
    assert (machines["running"], machines["shut off"]) == (1, 1)


def test_scrape_while_libvirtd_is_away(fragile: Laboratory, daemon_on_fragile: Daemon) -> None:
    up(daemon_on_fragile)
    fragile.libvirtd.kill()
    down(daemon_on_fragile)
    down(daemon_on_fragile)
    fragile.libvirtd.start()
    comes_up(daemon_on_fragile)


def test_scrape_while_libvirtd_does_not_answer(
    fragile: Laboratory, daemon_on_fragile: Daemon
) -> None:
    up(daemon_on_fragile)
    fragile.libvirtd.freeze()
    down(daemon_on_fragile)
    fragile.libvirtd.thaw()
    up(daemon_on_fragile)
    lost = by_label(scrape(daemon_on_fragile), "libvirt_mc_sessions_lost_total", "pool")
    assert lost["list"] == 1


def test_where_users_are_set_a_reader_may_scrape(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "monitor", "watch")
    settings = tmp_path / "settings.conf"
    settings.write_text("[global]\nauth.readers = ['monitor']\n")
    users = ("--users", str(tmp_path / "users"), "--config", str(settings))
    with Daemon("--connect", "test:///default", *users) as daemon, requests.Session() as client:
        assert daemon.get("/metrics").status == UNAUTHORIZED
        client.auth = HTTPDigestAuth("monitor", "watch")
        answer = client.get(f"http://127.0.0.1:{daemon.port}/metrics", timeout=30)
        assert answer.status_code == OK
        # requests, too, asks without an answer to the challenge first.
        assert requested(parsed(answer.content), "/metrics", status=UNAUTHORIZED) == 2


def test_two_are_apart() -> None:
    """Nothing of it is kept in the library's global registry."""
    one, other = Metrics(), Metrics()
    one.action("nmi", "changed")
    assert "libvirt_mc_actions_total" in {name for name, _ in parsed(one.text())}
    assert "libvirt_mc_actions_total" not in {name for name, _ in parsed(other.text())}


def test_head_has_no_body(daemon: Daemon) -> None:
    answer = daemon.request("HEAD", "/metrics")
    assert (answer.status, answer.body) == (OK, b"")
    until(lambda: requested(scrape(daemon), "/metrics", "HEAD"), 30, "HEAD that is counted")
