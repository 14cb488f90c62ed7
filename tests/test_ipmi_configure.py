"""What configure.py writes, keeps and refuses, on the embedded hypervisor."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.hypervisor import hypervisor, uuid_of
from tests.ipmi import PASSWORD, Simulator, configure, free_ports, ports_of
from tests.many_hosts import PREFIX, many_hosts, proxy, uuid_on
from tests.other_service import other_service

NAMES = ["web", "db", "O'Brien's \"lab\"; reboot #1 $HOME 测试"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    uri = hypervisor(tmp_path / "machines.xml", [(name, "running") for name in NAMES])
    with Daemon("--connect", uri) as daemon:
        yield daemon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ipmi"


@pytest.fixture
def first_port() -> Iterator[int]:
    with free_ports() as port:
        yield port


def url(daemon: Daemon) -> str:
    return f"--controller=http://127.0.0.1:{daemon.port}"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_is_written(folder: Path, daemon: Daemon, first_port: int) -> None:
    done = configure(folder, url(daemon), f"--first-port={first_port}")
    assert (done.returncode, done.stderr) == (0, "")
    assert PASSWORD not in done.stdout
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    secret = ["settings.json", "lan.conf", "bmc.emu", "libvirt-mc-ipmi.service"]
    assert modes == dict.fromkeys(secret, 0o600) | {"jobs": 0o700, "state": 0o700}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(ports_of(folder).values()) == [first_port, first_port + 1, first_port + 2]
    lan = (folder / "lan.conf").read_text()
    programs = re.findall(r'chassis_control "(.*)"', lan)
    assert len(programs) == 3
    assert not any(PASSWORD in program or name in program for program in programs for name in NAMES)
    for number, name in enumerate(NAMES):
        assert uuid_of(number) in lan
        assert json.dumps(name) in done.stdout
    unit = (folder / "libvirt-mc-ipmi.service").read_text()
    assert f"-c {folder}/lan.conf -f {folder}/bmc.emu -s {folder}/state -n -p" in unit


def test_ports_stay(folder: Path, daemon: Daemon, first_port: int) -> None:
    options = [url(daemon), f"--first-port={first_port}", "--machines"]
    assert configure(folder, *options, "web", "O'*").returncode == 0
    before = ports_of(folder)
    with Simulator(folder) as simulator:
        # Its own ports are in use now, and nothing is on standard input.
        done = configure(folder, "--machines", "*", passwords="")
        assert done.returncode == 0, done
        after = ports_of(folder)
        assert after == before | {uuid_of(1): first_port + 2}
        assert simulator.bmc(uuid_of(0)).power() == "on"
    done = configure(folder, "--machines", "db", passwords="")
    assert (done.returncode, ports_of(folder)) == (0, after)
    assert (folder / "lan.conf").read_text().count("set_working_mc") == 1
    with Simulator(folder) as simulator:
        assert simulator.bmc(uuid_of(1)).power() == "on"


def test_port_in_use_is_skipped(folder: Path, daemon: Daemon, first_port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", first_port))
        configure(folder, url(daemon), f"--first-port={first_port}", "--machines", "db")
    assert ports_of(folder) == {uuid_of(1): first_port + 1}


@pytest.mark.parametrize(
    ("arguments", "password", "words"),
    [
        ([], "x" * 20, "1 to 19"),
        ([], "", "1 to 19"),
        ([], "two words", "no spaces"),
        ([], 'quo"te', "no spaces"),
        ([], "back\\slash", "no spaces"),
        ([], "Käse", "ASCII"),
        (["--ipmi-user", "x" * 17], "x", "1 to 16"),
        (["--ipmi-user", "a b"], "x", "no spaces"),
        (["--address", "localhost"], "x", "localhost"),
        (["--first-port", "65536"], "x", "65535"),
        (["--first-port", "65535"], "x", "no ports left"),
        (["--ca", "/nowhere"], "x", "no such file"),
        (["--controller", "http://admin:secret@host"], "x", "--user"),
        (["--controller", "host:9001"], "x", "https://host:9001"),
        (["--controller", "http://host:99999"], "x", "http://host:99999"),
        (["--controller", "http://host/service"], "x", "https://host:9001"),
        (["--controller", "http://host/hosts/kvm1/service/vm"], "x", "https://host:9001/hosts/H"),
        (["--controller", "http://host/hosts/"], "x", "https://host:9001/hosts/H"),
        (["--controller", "http://host/two words"], "x", "https://host:9001/hosts/H"),
        (["--controller", "http://host/mc?x"], "x", "https://host:9001"),
        (["--controller", "http://host/mc#x"], "x", "https://host:9001"),
    ],
)
def test_refused(
    folder: Path, daemon: Daemon, arguments: list[str], password: str, words: str
) -> None:
    done = configure(folder, url(daemon), *arguments, passwords=password)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert words in done.stderr
    assert not folder.exists()


def test_path_that_others_would_take_apart(tmp_path: Path, daemon: Daemon) -> None:
    for name in ("two words", "quote'", "per%cent", "dollar$HOME"):
        done = configure(tmp_path / name, url(daemon))
        assert (done.returncode, "this path" in done.stderr) == (2, True), done


def test_nothing_is_written_when_the_controller_does_not_tell(
    folder: Path, daemon: Daemon, first_port: int
) -> None:
    assert configure(folder, url(daemon), f"--first-port={first_port}").returncode == 0
    before = files(folder)
    done = configure(folder, "--machines", "nothing-*")
    assert (done.returncode, done.stdout) == (1, "")
    assert "none is called nothing-*" in done.stderr
    daemon.stop()
    done = configure(folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be reached" in done.stderr
    assert files(folder) == before


def test_address_that_strangers_reach_is_warned_of(
    folder: Path, daemon: Daemon, first_port: int
) -> None:
    done = configure(folder, url(daemon), "--address=0.0.0.0", f"--first-port={first_port}")
    assert (done.returncode, "cipher suite 0" in done.stderr) == (0, True)


def test_more_machines_than_one_process_serves(
    folder: Path, tmp_path: Path, first_port: int
) -> None:
    machines = [(f"vm-{number:03}", "running") for number in range(202)]
    with Daemon("--connect", hypervisor(tmp_path / "many.xml", machines)) as daemon:
        done = configure(folder, url(daemon), f"--first-port={first_port}")
        assert done.returncode == 0, done
        assert (folder / "lan-2.conf").read_text().count("set_working_mc") == 2
        with Simulator(folder) as first, Simulator(folder, "-2") as second:
            assert first.bmc(uuid_of(199)).power() == "on"
            second.bmc(uuid_of(201))("chassis", "power", "off")
            assert first.bmc(uuid_of(0)).power() == "on"
        assert daemon.status("vm-201")["power"] == "off"
        assert configure(folder, "--machines", "vm-00*", passwords="").returncode == 0
    assert not (folder / "lan-2.conf").exists()


# Many hosts: `web` is on both.

MANY = {"kvm1": [("web", "running"), ("db", "running")], "kvm2": [("web", "shut off")]}
WEB_1, DB, WEB_2 = uuid_on(0, 0), uuid_on(0, 1), uuid_on(1, 0)


def test_machines_of_one_name_are_told_apart(folder: Path, tmp_path: Path, first_port: int) -> None:
    with many_hosts(tmp_path, MANY) as daemon:
        done = configure(folder, url(daemon), f"--first-port={first_port}", "--machines", "web")
        assert (done.returncode, done.stderr) == (0, "")
        assert f'{WEB_1}  "web" on kvm1\n' in done.stdout
        assert f'{WEB_2}  "web" on kvm2\n' in done.stdout
        assert '# "web" on kvm2\n' in (folder / "lan.conf").read_text()
        with Simulator(folder) as simulator:
            assert simulator.bmc(WEB_1).power() == "on"
            assert simulator.bmc(WEB_2).power() == "off"
            simulator.bmc(WEB_2)("chassis", "power", "on")
            simulator.bmc(WEB_1)("chassis", "power", "off")
        states = [(one["name"], one["host"]) for one in daemon.get("/service/machines").json
                  if one["power"] == "on"]  # fmt: skip
        assert states == [("db", "kvm1"), ("web", "kvm2")]


@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_machines_of_one_host(folder: Path, tmp_path: Path, first_port: int, slash: str) -> None:
    with many_hosts(tmp_path, MANY, down="kvm3") as daemon:
        address = f"{url(daemon)}{slash}/hosts/kvm1{slash}"
        done = configure(folder, address, f"--first-port={first_port}")
        assert (done.returncode, done.stderr) == (0, "")
        assert " on kvm1" not in done.stdout
        assert ports_of(folder).keys() == {WEB_1, DB}
        # It is remembered, and forgotten.
        assert configure(folder, passwords="").returncode == 0
        assert ports_of(folder).keys() == {WEB_1, DB}
        assert configure(folder, f"{url(daemon)}/hosts/kvm2", passwords="").returncode == 0
        assert ports_of(folder).keys() == {WEB_1, DB, WEB_2}
        assert WEB_1 not in (folder / "lan.conf").read_text()
        before = files(folder)
        done = configure(folder, f"{url(daemon)}{slash}", passwords="")
        assert (done.returncode, files(folder)) == (1, before)
        assert "kvm3" in done.stderr


def test_address_behind_a_proxy(folder: Path, tmp_path: Path, first_port: int) -> None:
    with many_hosts(tmp_path, MANY) as daemon, proxy(tmp_path, daemon) as port:
        address = f"--controller=http://127.0.0.1:{port}{PREFIX}"
        assert configure(folder, f"{address}/", f"--first-port={first_port}").returncode == 0
        assert ports_of(folder).keys() == {WEB_1, DB, WEB_2}
        assert configure(folder, f"{address}/hosts/kvm2", passwords="").returncode == 0
        assert (folder / "lan.conf").read_text().count("set_working_mc") == 1
        done = configure(folder, f"{address}/elsewhere", passwords="")
        assert done.returncode == 1
        assert f"asked at http://127.0.0.1:{port}{PREFIX}/elsewhere" in done.stderr


def test_nothing_is_written_where_machines_may_be_missing(
    folder: Path, tmp_path: Path, first_port: int
) -> None:
    with many_hosts(tmp_path, MANY, down="kvm3") as daemon:
        base = url(daemon).partition("=")[2]
        done = configure(folder, url(daemon), f"--first-port={first_port}")
        assert (done.returncode, done.stdout, folder.exists()) == (1, "", False)
        assert "not heard of: kvm3 (HTTP status 503; try again in " in done.stderr
        assert f"nothing was written; --controller {base}/hosts/H asks the host H" in done.stderr
        done = configure(folder, f"{url(daemon)}/hosts/kvm3")
        assert (done.returncode, done.stdout, folder.exists()) == (1, "", False)
        told = r"host kvm3( is down since 20\S+Z)?: .*; try again in \d+ s\)"
        assert re.search(told, done.stderr)
        done = configure(folder, f"{url(daemon)}/hosts/kvm9")
        assert (done.returncode, done.stdout, folder.exists()) == (1, "", False)
        assert f"no host 'kvm9' (HTTP status 404; it was asked at {base}/hosts/kvm9)" in done.stderr


def test_machines_of_one_uuid_are_one(folder: Path, tmp_path: Path, first_port: int) -> None:
    """As after a migration, where the definition is left behind."""
    machines = {"kvm1": [("old", "shut off")], "kvm2": [("vm", "running"), ("other", "running")]}
    with many_hosts(tmp_path, machines, one_uuid=True) as daemon:
        done = configure(folder, url(daemon), f"--first-port={first_port}")
        assert (done.returncode, ports_of(folder)) == (
            0,
            {uuid_of(0): first_port, uuid_of(1): first_port + 1},
        )
        assert (folder / "lan.conf").read_text().count("set_working_mc") == 2
        assert '"old" on kvm1, kvm2, by one UUID: the one that runs is reached' in done.stderr
        assert '"other"' not in done.stderr
        with Simulator(folder) as simulator:
            assert simulator.bmc(uuid_of(0)).power() == "on"


@pytest.mark.parametrize(
    "body", ["<html>", "{}", "null", "[1]", '[{"name": "vm"}]', '[{"name": 1, "uuid": ""}]',
             json.dumps([{"name": "vm", "uuid": uuid_of(0), "host": "a\nb"}]), "[" * 99999,
             json.dumps([{"name": "vm", "uuid": uuid_of(0)[:-2] + "\n0"}])],
)  # fmt: skip
def test_list_of_another_service(folder: Path, body: str) -> None:
    with other_service(200, body) as port:
        done = configure(folder, f"--controller=http://127.0.0.1:{port}/mc")
    assert (done.returncode, done.stdout, folder.exists()) == (1, "", False)
    assert done.stderr == "configure.py: something that is not the controller has answered\n"
