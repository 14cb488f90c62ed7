"""Mr-Provisioner's verbs by both drivers, on real machines: the guest says what booted."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mc.domain_xml import order
from tests.booting import PATIENCE, Define, get_boot, machines
from tests.certificate import certificate
from tests.daemon import PROGRAM, Daemon
from tests.hypervisor import hypervisor
from tests.lab import Cdrom, Laboratory, Machine, Nic, until
from tests.many_hosts import PREFIX, many_hosts, proxy, uuid_on
from tests.other_service import other_service
from tests.provisioner import Bmc, BMCError, DriverOf2018, Provisioned, driver

SECRET = 'p: ä"ss'  # noqa: S105

# What boots when each verb is used on a machine that boots from its CD by default.
FROM_OFF = {
    "reboot": "cdrom",
    "pxe_reboot": "network",
    "disk_reboot": "disk",
    "bios_reboot": "cdrom",
    "on": "cdrom",
    "off": None,
    "cycle": "cdrom",
    "reset": "cdrom",
    "soft": None,
}
# On one that runs, which `on` leaves as it is.
FROM_RUNNING = FROM_OFF | {"on": None}
ENDS_OFF = ("off", "soft")
# Those that are for one boot, which is noted while it runs, and by what.
ONCE: dict[str, order.Device] = {
    "pxe_reboot": "pxe",
    "disk_reboot": "disk",
    "bios_reboot": "default",
}


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    users = tmp_path_factory.mktemp("users") / "users"
    command = [sys.executable, str(PROGRAM), "--users", str(users), "--add-user", "provisioner"]
    subprocess.run(command, input=SECRET + "\n", text=True, check=True, capture_output=True)
    return users


@pytest.fixture(scope="module")
def daemon(lab: Laboratory, users: Path) -> Iterator[Daemon]:
    backups = ["--backup-dir", str(users.parent / "backups")]
    with Daemon("--connect", lab.uri, "--users", str(users), *backups) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def open_daemon(lab: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """As the driver of 2018 wants it: no password, and states that are `on` or `off`."""
    folder = tmp_path_factory.mktemp("open")
    config = folder / "mc.conf"
    config.write_text("[global]\nservice.state_words = 'power'\n")
    backups = ["--backup-dir", str(folder / "backups")]
    with Daemon("--connect", lab.uri, "--config", str(config), *backups) as daemon:
        yield daemon


@pytest.fixture
def define(lab: Laboratory) -> Iterator[Define]:
    with machines(lab) as define:
        yield define


@pytest.fixture
def machine(define: Define) -> Machine:
    return define(add=[Nic(), Cdrom()], boot="device", boot_order=["cdrom", "disk", "network"])


def provisioned(name: str, port: int, info: str = "") -> Provisioned:
    bmc = Bmc(driver(), username="provisioner", password=SECRET)
    return Provisioned(name, bmc, info or f"http://:{port}/?machine={quote(name)}")


def kept(machine: Machine, first: str, verb: str) -> None:
    """The configuration is what it was, but for the note of the one-time boot that runs."""
    once = ONCE.get(verb)
    assert machine.xml() == (order.begun(order.with_once(first, once)) if once else first)
    if machine.state() == "running":
        assert order.read(machine.virsh("dumpxml")).running == once


@pytest.mark.parametrize("verb", FROM_OFF)
def test_from_off(daemon: Daemon, machine: Machine, verb: str) -> None:
    first = machine.xml()
    provisioned(machine.name, daemon.port).verbs[verb]()
    boots = FROM_OFF[verb]
    machine.wait_for_boots(*([boots] if boots else []))
    assert machine.state() == ("running" if boots else "shut off")
    kept(machine, first, verb)


@pytest.mark.parametrize("verb", FROM_RUNNING)
def test_from_running(daemon: Daemon, machine: Machine, verb: str) -> None:
    machine.boot()
    first = machine.xml()
    provisioned(machine.name, daemon.port).verbs[verb]()
    boots = FROM_RUNNING[verb]
    machine.wait_for_boots("cdrom", *([boots] if boots else []))
    machine.wait_for_state("shut off" if verb in ENDS_OFF else "running")
    kept(machine, first, verb)


def test_boot_device_is_for_the_next_boot_only(daemon: Daemon, machine: Machine) -> None:
    machine.boot()
    one = provisioned(machine.name, daemon.port)
    process = machine.qemu_pid()
    one.bmc.type_inst.set_bootdev(one, "pxe")
    assert (machine.qemu_pid(), one.bmc.type_inst.get_power(one)) == (process, "on")
    one.verbs["reset"]()
    machine.wait_for_boots("cdrom", "network")
    one.verbs["reset"]()
    machine.wait_for_boots("cdrom", "network", "cdrom")


def by_2018(machine: Machine, daemon: Daemon) -> Provisioned:
    return Provisioned(machine.name, Bmc(DriverOf2018(daemon.port)))


BOOTS_OF_2018 = {verb: FROM_OFF[verb] for verb in FROM_OFF if verb.endswith("reboot")}


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("verb", BOOTS_OF_2018)
def test_boots_by_the_driver_of_2018(
    open_daemon: Daemon, machine: Machine, verb: str, runs: bool
) -> None:
    if runs:
        machine.boot()
    by_2018(machine, open_daemon).verbs[verb]()
    # It asks for a reboot of what has just been booted, which firmware may or may not obey.
    until(lambda: machine.booted[runs:], PATIENCE, f"boot by {verb}", lambda now: len(now) > 0)
    assert set(machine.booted[runs:]) == {BOOTS_OF_2018[verb]}
    machine.wait_for_state("running")


def test_power_by_the_driver_of_2018(open_daemon: Daemon, machine: Machine) -> None:
    one = by_2018(machine, open_daemon)
    assert one.bmc.type_inst.get_power(one) == "off"
    one.verbs["on"]()
    machine.wait_for_boots("cdrom")
    assert one.bmc.type_inst.get_power(one) == "on"
    one.verbs["cycle"]()
    machine.wait_for_boots("cdrom", "cdrom")
    one.verbs["off"]()
    machine.wait_for_state("shut off (shutdown)")


def test_limits_of_the_driver_of_2018(open_daemon: Daemon, machine: Machine) -> None:
    """It sends the same for `on` and `off`, and a hard reset for `cycle`."""
    one = by_2018(machine, open_daemon)
    with pytest.raises(BMCError, match="409"):
        one.verbs["cycle"]()
    one.verbs["off"]()
    machine.wait_for_boots("cdrom")
    one.verbs["on"]()
    machine.wait_for_state("shut off (shutdown)")


# The driver's own errors, and where it looks for the controller.


def test_failures_are_told_in_the_controllers_words(
    define: Define, daemon: Daemon, tmp_path: Path
) -> None:
    bare = define(add=[])
    one = provisioned(bare.name, daemon.port)
    with pytest.raises(BMCError, match="has no interface to boot from"):
        one.verbs["pxe_reboot"]()
    one.bmc.password = "wrong"  # noqa: S105
    with pytest.raises(BMCError, match="the user name or the password is wrong"):
        one.bmc.type_inst.get_power(one)
    one.bmc.username = None
    with pytest.raises(BMCError, match="a user name and a password are needed"):
        one.verbs["off"]()
    unknown = provisioned("no such vm", daemon.port)
    with pytest.raises(BMCError, match="libvirt has no machine 'no such vm'"):
        unknown.bmc.type_inst.get_power(unknown)
    for words in ("standby", "OFF", ""):
        with pytest.raises(BMCError, match="no power state"):
            one.bmc.type_inst.set_power(one, words)
    with pytest.raises(BMCError, match="no boot device"):
        one.bmc.type_inst.set_bootdev(one, "tape")
    with pytest.raises(BMCError, match="no serial console"):
        one.bmc.type_inst.get_sol_command(one)
    assert bare.state() == "shut off"


def test_controller_that_is_away() -> None:
    one = provisioned("vm", 1)
    with pytest.raises(BMCError, match="vm: the controller cannot be reached"):
        one.bmc.type_inst.get_power(one)


@pytest.mark.parametrize(
    "body", ["{}", "[]", "null", '"x"', "<html>", "", '{"power": "unknown", "changed": 2}',
             '{"power": null, "changed": null}', '{"power": [], "changed": []}', "[" * 99999],
)  # fmt: skip
def test_answers_of_another_service_are_no_success(body: str) -> None:
    with other_service(200, body) as port:
        one = provisioned("vm", port)
        for verb in ("reboot", "pxe_reboot", "on", "cycle"):
            with pytest.raises(BMCError, match="vm: the answer is not the controller's"):
                one.verbs[verb]()


@pytest.mark.parametrize(
    ("body", "said"),
    [('{"detail": "made up"}', "made up"), *(
        (body, "HTTP status 409 Conflict")
        for body in ('{"detail": null}', '{"detail": ""}', "{}", "[1]", "<html>", "[" * 99999)
    )],
)  # fmt: skip
def test_errors_of_another_service(body: str, said: str) -> None:
    with other_service(409, body) as port, pytest.raises(BMCError) as raised:
        provisioned("vm", port).verbs["on"]()
    assert str(raised.value) == f"vm: {said}"


@pytest.mark.parametrize("demand", ['realm="x"', 'nonce="x"', 'realm="x", nonce'])
def test_malformed_demand_for_a_password(demand: str) -> None:
    with other_service(401, "", WWW_Authenticate=f"Digest {demand}") as port:
        one = provisioned("vm", port)
        with pytest.raises(BMCError, match="vm: the password is not asked for") as raised:
            one.verbs["on"]()
    assert raised.value.__cause__


@pytest.mark.parametrize("ip", ["a..b", "x" * 64 + ".y", "", None, "a b", "[", "ü\0"])
def test_bmc_address_that_is_none(ip: str | None) -> None:
    one = Provisioned("vm", Bmc(driver(), ip))  # type: ignore[arg-type]
    with pytest.raises(BMCError, match=r"cannot be asked|the BMC has no IP address"):
        one.verbs["on"]()


def test_user_name_that_no_header_can_carry() -> None:
    with other_service(401, "", WWW_Authenticate='Digest realm="x", nonce="x"') as port:
        one = provisioned("vm", port)
        one.bmc.username = "€"
        with pytest.raises(BMCError, match="vm: the controller cannot be asked"):
            one.verbs["on"]()


ODD = "a/b?c#d%20é 'x\""


def test_tls_and_odd_names(users: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    name = ODD.replace("/", "|")
    uri = hypervisor(tmp_path / "machines.xml", [(name, "running")])
    tls = [f"--tls-cert={cert}", f"--tls-key={key}"]
    with Daemon("--connect", uri, "--users", str(users), *tls) as daemon:
        info = f"https://:{daemon.port}/?ca={quote(str(cert))}"
        one = provisioned(name, 0, info)
        assert one.bmc.type_inst.get_power(one) == "on"
        other = provisioned("x", 0, f"{info}&machine={quote(name, safe='')}")
        other.verbs["off"]()
        assert one.bmc.type_inst.get_power(one) == "off"
        one.bmc_info = f"https://:{daemon.port}"
        with pytest.raises(BMCError, match="CERTIFICATE_VERIFY_FAILED"):
            one.bmc.type_inst.get_power(one)


@pytest.mark.parametrize(
    "info", [None, "", "http://:9001", "https://:9001/?machine=vm1", "https://:9443", "http://:",
             "https://host.lan/", "?machine=my%20vm", "http://[::1]:9001", "?ca=/x&machine=vm",
             "https://", " HTTPS://host:9443?machine=a+b@c\n", "http://:9001/hosts/kvm1",
             "https://proxy:443/mc/hosts/kvm1/?machine=vm", "http://host//mc//", "http://host/mc"],
)  # fmt: skip
def test_bmc_info_that_can_be_understood(info: str | None) -> None:
    assert driver().validate_bmc_info(info) is True


@pytest.mark.parametrize(
    "info", ["ftp://host", "http://:99999", "http://:x", "http://user:secret@host", "?vm=x",
             "?machine=", "?machine=a&machine=b", "http://host/service", "#x", "http://[::1", "?x",
             "vm1", "9443", ":9443", "host:9443", "//host", "http:/host", "https:9443", "http://:0",
             "https://:0/", "machine=vm1", "https://h\nx", "http://no host", "?machine=my vm",
             "http://host/hosts", "http://:9001/hosts/", "/hosts/kvm1", "http://host/hosts/k 1",
             "http://:9001/hosts/kvm1/service/vm1", "http://host/mc#x"],
)  # fmt: skip
def test_bmc_info_that_cannot(info: str) -> None:
    with pytest.raises(BMCError, match="BMC info"):
        driver().validate_bmc_info(info)


@pytest.mark.parametrize(
    "info", ["http://a:secret@host", "a:secret@host", "http://a:secret /@host"]
)
def test_password_in_bmc_info_is_not_repeated(info: str) -> None:
    with pytest.raises(BMCError, match="the BMC has the user name and the password") as raised:
        driver().validate_bmc_info(info)
    assert "secret" not in str(raised.value)


def test_open_controller_by_the_new_driver(open_daemon: Daemon, machine: Machine) -> None:
    one = provisioned(machine.name, open_daemon.port)
    one.bmc.username = None
    one.verbs["pxe_reboot"]()
    machine.wait_for_boots("network")
    assert get_boot(open_daemon, machine)["once"] is None


# Many hosts: `web` is on both.

MANY = {"kvm1": [("web", "running")], "kvm2": [("web", "shut off"), ("db", "running")]}


@pytest.fixture
def many(users: Path, tmp_path: Path) -> Iterator[Daemon]:
    with many_hosts(tmp_path, MANY, "--users", str(users), down="kvm3") as daemon:
        yield daemon


def power(one: Provisioned) -> str:
    return str(one.bmc.type_inst.get_power(one))


@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_machine_of_one_host(many: Daemon, slash: str) -> None:
    base = f"http://:{many.port}{slash}"
    here = provisioned("web", 0, f"{base}/hosts/kvm1{slash}")
    there = provisioned("x", 0, f"{base}/hosts/kvm2{slash}?machine=web")
    assert (power(here), power(there)) == ("on", "off")
    here.verbs["off"]()
    there.verbs["pxe_reboot"]()
    assert (power(here), power(there)) == ("off", "on")


def test_machine_of_any_host(many: Daemon) -> None:
    assert power(provisioned("db", many.port)) == "on"
    other = provisioned("x", many.port, f"http://:{many.port}?machine={uuid_on(1, 0)}")
    other.verbs["on"]()
    assert power(provisioned("web", 0, f"http://:{many.port}/hosts/kvm2")) == "on"


def test_machine_behind_a_proxy(many: Daemon, tmp_path: Path) -> None:
    with proxy(tmp_path, many) as port:
        for path in ("/hosts/kvm1", "/hosts/kvm1/"):
            one = provisioned("web", 0, f"http://:{port}{PREFIX}{path}")
            one.verbs["pxe_reboot"]()
            assert power(one) == "on"
        assert power(provisioned("db", 0, f"http://:{port}{PREFIX}/")) == "on"
        wrong = provisioned("db", 0, f"http://:{port}/elsewhere")
        asked = f"db: HTTP status 404 Not Found; it was asked at http://127.0.0.1:{port}/elsewhere"
        with pytest.raises(BMCError, match=asked):
            power(wrong)
    assert "wrong password" not in many.log()


def test_name_on_several_hosts_is_refused_with_a_way_out(many: Daemon) -> None:
    one = provisioned("web", many.port)
    with pytest.raises(BMCError, match="on several hosts") as raised:
        one.verbs["off"]()
    assert str(raised.value).endswith(
        "; BMC info whose path ends in /hosts/kvm1 is for the one there"
    )
    one.bmc_info = f"http://:{many.port}/hosts/kvm1"
    assert power(one) == "on"


def test_host_that_is_down_or_unknown_is_told(many: Daemon) -> None:
    base = f"http://127.0.0.1:{many.port}"
    # libvirt may have been asked just now.
    told = r"^web: host kvm3( is down since 20\S+Z)?: .*; try again in \d+ s$"
    with pytest.raises(BMCError, match=told):
        power(provisioned("web", 0, f"http://:{many.port}/hosts/kvm3"))
    with pytest.raises(BMCError, match=f"no host 'kvm9'; it was asked at {base}/hosts/kvm9$"):
        power(provisioned("web", 0, f"http://:{many.port}/hosts/kvm9/"))
    with pytest.raises(BMCError, match=f"no machine 'db'; it was asked at {base}/hosts/kvm1$"):
        power(provisioned("db", 0, f"http://:{many.port}/hosts/kvm1"))
    # It may be on the host that is down.
    with pytest.raises(BMCError, match=r"not heard of: kvm3; try again in \d+ s$"):
        power(provisioned("nowhere", many.port))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(409, '{"detail": "x", "urls": []}', "x"), (409, '{"detail": "x", "urls": {"a": 1}}', "x"),
     (409, '{"detail": "x", "host": "kvm1"}', "x"), (504, '{"detail": "x", "host": "k"}',
      "host k: x"), (503, '{"detail": "x", "host": "k", "since": "2026-01-01T00:00:00Z"}',
      "host k is down since 2026-01-01T00:00:00Z: x; try again in 30 s"),
     (503, "<html>", "HTTP status 503 Service Unavailable; try again in 30 s")],
)  # fmt: skip
def test_refusals_name_the_host(status: int, body: str, said: str) -> None:
    with other_service(status, body, Retry_After="30") as port, pytest.raises(BMCError) as raised:
        provisioned("vm", port).verbs["on"]()
    assert str(raised.value) == f"vm: {said}"
