"""Many hosts in one controller, as a client sees them: embedded hypervisors, one for each host."""

import http
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.daemon import Answer, Daemon
from tests.event_source import EventSource
from tests.hypervisor import hypervisor
from tests.lab import until

OK, NOT_FOUND, CONFLICT, AWAY = 200, 404, 409, 503
EMPTY = "empty"
# The UUIDs are numbered from 0 within each file, so `twin` has another one on each host, and
# `first` is of one UUID with `common`.
MACHINES: Mapping[str, Sequence[tuple[str, str]]] = {
    "kvm1": [("first", "running"), ("twin", "running"), ("only1", "shut off")],
    "kvm2": [("common", "shut off"), ("only2", "running"), ("twin", "shut off")],
    EMPTY: [],
}


def settings(folder: Path, uris: Mapping[str, str]) -> Path:
    """A file of settings for hosts with these URIs."""
    sections = [f'[/hosts/{name}]\nlibvirt.uri = "{uri}"\n' for name, uri in uris.items()]
    file = folder / "hosts.conf"
    file.write_text(f'[global]\nboot.backup_dir = "{folder}/backups"\n' + "".join(sections))
    return file


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("hosts")
    uris = {
        name: hypervisor(folder / f"{name}.xml", machines) for name, machines in MACHINES.items()
    }
    # libvirt refuses what is no XML: this host is down for ever.
    (folder / "broken.xml").write_text("<node>")
    uris["broken"] = f"test://{folder}/broken.xml"
    with Daemon("--config", str(settings(folder, uris))) as daemon:
        until(lambda: "connecting" not in str(daemon.get("/hosts").json), 30, "every host tried")
        yield daemon


def names(answer: Answer) -> list[tuple[str, str]]:
    assert answer.status == OK, answer
    return [(one["host"], one["name"]) for one in answer.json]


def test_list_tells_the_machines_of_every_host_that_answers_and_names_the_others(
    daemon: Daemon,
) -> None:
    answer = daemon.get("/service/machines")
    assert sorted(names(answer)) == sorted(
        (host, name) for host, machines in MACHINES.items() for name, _ in machines
    )
    assert answer.headers["incomplete"] == "broken"
    assert [one["name"] for one in answer.json] == sorted(one["name"] for one in answer.json)


def test_list_that_is_to_be_complete_is_refused_while_a_host_is_away(daemon: Daemon) -> None:
    answer = daemon.get("/service/machines?complete=true")
    assert answer.status == AWAY
    assert answer.json["hosts"] == ["broken"]
    assert names(daemon.get("/hosts/kvm1/service/machines?complete=true"))


@pytest.mark.parametrize("host", MACHINES)
def test_tree_of_a_host_holds_its_own_machines(daemon: Daemon, host: str) -> None:
    answer = daemon.get(f"/hosts/{host}/service/machines")
    assert names(answer) == sorted((host, name) for name, _ in MACHINES[host])
    assert "incomplete" not in answer.headers


def test_hosts_tell_their_state_and_how_many_machines_they_have(daemon: Daemon) -> None:
    told = {one["name"]: one for one in daemon.get("/hosts").json}
    assert list(told) == ["broken", EMPTY, "kvm1", "kvm2"]
    assert {name: one["state"] for name, one in told.items()} == {
        "broken": "down",
        EMPTY: "up",
        "kvm1": "up",
        "kvm2": "up",
    }
    assert (told["kvm1"]["machines"], told[EMPTY]["machines"]) == (3, 0)
    assert told["broken"]["machines"] is None
    assert told["broken"]["detail"]
    assert daemon.get("/hosts/kvm1").json == told["kvm1"]


def test_no_uri_is_told(daemon: Daemon) -> None:
    for path in ("/service", "/hosts", "/hosts/kvm1", "/hosts/kvm1/service", "/"):
        assert b"test://" not in daemon.get(path).body


def test_host_that_is_down_is_answered_at_once_with_what_is_known(daemon: Daemon) -> None:
    answer = daemon.get("/hosts/broken/service/whatever")
    assert answer.status == AWAY
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json["host"] == "broken"
    assert answer.json["since"].endswith("Z")


def test_machine_of_an_only_name_needs_no_host(daemon: Daemon) -> None:
    assert daemon.get("/service/only1").json["host"] == "kvm1"
    assert daemon.get("/service/only2/state_controller/status").json["state"] == "running"
    url = daemon.get("/service/only2/state_controller").json["verbs"]["power_on"]
    assert url == "/hosts/kvm2/service/only2/state_controller/power_on"
    assert daemon.get(url).json["changed"] is False


def test_name_of_two_machines_is_a_conflict_that_tells_their_urls(daemon: Daemon) -> None:
    answer = daemon.get("/service/twin/state_controller/force_off")
    assert answer.status == CONFLICT
    urls = answer.json["urls"]
    assert urls == ["/hosts/kvm1/service/twin", "/hosts/kvm2/service/twin"]
    assert [daemon.get(url).json["state"] for url in urls] == ["running", "shut off"]


def test_uuid_of_two_machines_means_the_one_that_is_active(daemon: Daemon) -> None:
    uuid = daemon.get("/hosts/kvm1/service/first").json["uuid"]
    assert daemon.get("/hosts/kvm2/service/common").json["uuid"] == uuid
    assert daemon.get(f"/service/{uuid}").json["host"] == "kvm1"
    assert daemon.get("/hosts/kvm1/service/first/state_controller/force_off").status == OK
    assert daemon.get(f"/service/{uuid}").status == CONFLICT
    assert daemon.get("/hosts/kvm1/service/first/state_controller/power_on").status == OK
    assert daemon.get(f"/service/{uuid}").json["name"] == "first"


def test_machine_that_a_host_may_have_that_is_down_is_not_said_to_be_none(daemon: Daemon) -> None:
    answer = daemon.get("/service/nowhere")
    assert answer.status == AWAY
    assert answer.json["hosts"] == ["broken"]
    assert daemon.get("/hosts/kvm1/service/nowhere").status == NOT_FOUND


def test_unknown_host_is_not_found(daemon: Daemon) -> None:
    for path in ("", "/service", "/service/machines", "/service/only1", "/healthz", "/metrics"):
        assert daemon.get(f"/hosts/kvm9{path}").status == NOT_FOUND
    assert daemon.get("/hosts/kvm9/events").status == NOT_FOUND


def test_action_by_a_host_is_done_and_logged_with_it(daemon: Daemon) -> None:
    start = daemon.log_size()
    answer = daemon.request(
        "PUT",
        "/hosts/kvm1/service/only1/boot",
        b'{"device":"default"}',
        {"Content-Type": "application/json"},
    )
    assert answer.json["host"] == "kvm1"
    assert "host=kvm1" in daemon.log(start)


def test_health_is_that_of_a_host_or_of_any(daemon: Daemon) -> None:
    assert daemon.get("/healthz").status == OK
    assert daemon.get("/hosts/kvm1/healthz").status == OK
    assert daemon.get("/hosts/broken/healthz").status == AWAY


def test_metrics_tell_which_hosts_are_up(daemon: Daemon) -> None:
    text = daemon.get("/metrics").body.decode()
    assert 'libvirt_up{host="kvm1"} 1.0' in text
    assert 'libvirt_up{host="broken"} 0.0' in text
    own = daemon.get("/hosts/kvm1/metrics").body.decode()
    assert 'libvirt_up{host="kvm1"} 1.0' in own
    assert "kvm2" not in own


def test_events_tell_of_every_host(daemon: Daemon) -> None:
    with closing(EventSource(daemon)) as events:
        seen: dict[str, object] = {}
        while len(seen) < len(MACHINES):
            host = events.wait_for("host")
            if host["state"] == "up":
                seen[host["name"]] = host["machines"]
        assert daemon.get("/hosts/kvm2/service/only2/state_controller/force_off").status == OK
        changed = events.wait_for("machine", lambda one: one["name"] == "only2")
        assert (changed["host"], changed["state"]) == ("kvm2", "shut off")
        assert daemon.get("/hosts/kvm2/service/only2/state_controller/power_on").status == OK


def test_head_and_options_below_a_host(daemon: Daemon) -> None:
    assert daemon.request("HEAD", "/hosts/kvm1/service/only1").status == OK
    assert daemon.request("OPTIONS", "/hosts").status == http.HTTPStatus.NO_CONTENT
