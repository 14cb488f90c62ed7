"""What an installation takes from `config/`: the systemd unit, its user, and the settings."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mc import settings
from mc.settings import SETTINGS, Settings
from mc.virsh import FOR_ONE_OF_MANY
from tests.daemon import PROGRAM

ROOT = PROGRAM.parent
CONFIG = ROOT / "config"
UNIT = CONFIG / "libvirt-mc.service"
SETTINGS_FILE = CONFIG / "libvirt_mc.conf"
MOST_EXPOSED = 2.0


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def directives(text: str) -> dict[str, str]:
    """The last value of each key in a unit."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


@pytest.fixture
def unit() -> dict[str, str]:
    return directives(UNIT.read_text())


def readme_commands() -> str:
    """The commands by which the README installs the service."""
    section = (ROOT / "README.md").read_text().split("\n## Run it as a service\n")[1]
    return section.split("```sh\n")[1].split("```")[0]


def test_exposure_is_low() -> None:
    done = run(
        *("systemd-analyze", "security", "--offline=true", "--no-pager"),
        *(f"--threshold={MOST_EXPOSED * 10:.0f}", UNIT),
    )
    assert done.returncode == 0, done.stdout
    found = re.search(r"Overall exposure level for libvirt-mc\.service: ([\d.]+)", done.stdout)
    assert found, done.stdout
    assert float(found[1]) <= MOST_EXPOSED


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    return run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    text = UNIT.read_text()
    python, arguments = directives(text)["ExecStart"].split(" ", 1)
    file = tmp_path / UNIT.name
    file.write_text(text.replace(f"{python} {arguments}", f"{sys.executable} {arguments}"))
    return file


def test_systemd_understands_the_unit(installed: Path) -> None:
    done = verify(installed)
    assert done.returncode == 0, done.stdout
    assert UNIT.name not in done.stdout


def test_systemd_would_notice_a_wrong_unit(installed: Path) -> None:
    installed.write_text(installed.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert UNIT.name in verify(installed).stdout


def test_user_of_the_unit_is_made_and_may_use_libvirt(unit: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", CONFIG / "libvirt-mc.sysusers")
    assert done.returncode == 0, done.stdout
    users = (tmp_path / "etc/passwd").read_text()
    groups = (tmp_path / "etc/group").read_text()
    home = f"/var/lib/{unit['StateDirectory']}"
    assert re.search(rf"^{unit['User']}:x:\d+:\d+:[^:]*:{home}:.*nologin$", users, re.M), users
    assert unit["Group"] == unit["User"]
    assert re.search(rf"^{unit['SupplementaryGroups']}:x:\d+:{unit['User']}$", groups, re.M), groups


def test_backups_go_where_the_unit_may_write(unit: dict[str, str]) -> None:
    assert Path(Settings().backup_dir).parent == Path("/var/lib") / unit["StateDirectory"]
    assert (unit["ProtectSystem"], unit["CapabilityBoundingSet"]) == ("strict", "")
    assert (unit["NoNewPrivileges"], unit["Restart"]) == ("yes", "on-failure")


def test_readme_installs_what_the_unit_starts(unit: dict[str, str]) -> None:
    python, program, option, file = unit["ExecStart"].split()
    commands = readme_commands()
    folder = Path(program).parent
    assert f"python3 -m venv {Path(python).parent.parent}\n" in commands
    assert f"cp -r {Path(program).name} mc requirements.txt {folder}\n" in commands
    assert f"install -m 644 config/{Path(file).name} {Path(file).parent}\n" in commands
    assert (
        f"install -d -o {unit['User']} -g {unit['User']} -m 750 {Path(file).parent}\n" in commands
    )
    assert option == "--config"
    for name in re.findall(r"\bconfig/\S+", commands):
        assert (ROOT / name).is_file()


def test_limits_leave_room_for_what_the_settings_allow(unit: dict[str, str]) -> None:
    """By the figures that the comments in the unit give."""
    # The lines of the comment as one.
    text = re.sub(r"\s*\n#?\s*", " ", UNIT.read_text())
    chosen = Settings()
    layout = FOR_ONE_OF_MANY
    pools = [one for one in (layout.reading, layout.acting, layout.drawing) if one]
    assert f"has {sum(one.limit for one in pools)} sessions and 2 streams" in text
    virshs = 150 * 2 + 50 * (sum(one.limit for one in pools) + 2)
    assert f"150 x 2 and 50 x 10 are {virshs}." in text
    megabytes = round(virshs * 3.7 + 17 + 200)
    assert f"{virshs} x 3.7 MB, 17 MB, and 200 MB for the daemon are {megabytes} MB" in text
    assert megabytes < 1024 * int(unit["MemoryMax"].removesuffix("G"))
    tasks = 300 + 3 * virshs
    assert f"300 threads of the daemon, {virshs} x 2 of virsh, {virshs} x ssh: {tasks}." in text
    assert chosen.thread_pool + chosen.event_streams < 300
    assert tasks < int(unit["TasksMax"])
    files = chosen.max_connections + 4 * virshs + 200
    assert f"({chosen.max_connections}), {virshs} x 4 for pipes" in text
    assert f"200 others: {files}." in text
    assert files < int(unit["LimitNOFILE"])


def test_settings_file_has_every_setting_with_its_default() -> None:
    assert settings.load(SETTINGS_FILE, {}) == Settings()
    listed = re.findall(r"^([\w.]+) = (.*)$", SETTINGS_FILE.read_text(), re.M)
    assert sorted(key for key, _ in listed) == sorted(SETTINGS)
    for key, text in listed:
        value, default = ast.literal_eval(text), SETTINGS[key].default
        assert (tuple(value) if isinstance(value, list) else value) == default
        assert type(value) is (list if default == () else type(default))


def test_settings_files_examples_of_hosts_are_right(tmp_path: Path) -> None:
    text = SETTINGS_FILE.read_text().replace('libvirt.uri = "qemu:///system"\n', "")
    file = tmp_path / SETTINGS_FILE.name
    file.write_text(re.sub(r"^#(\[|libvirt)", r"\1", text, flags=re.M))
    first, second = settings.load(file, {}).hosts
    assert (first.name, first.machines, first.read_seconds) == ("kvm1", (), 5.0)
    assert (second.name, second.machines, second.read_seconds) == ("kvm2", ("lab-*",), 10.0)


def test_settings_file_explains_every_setting_in_one_line() -> None:
    lines = SETTINGS_FILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line
            assert not lines[number - 2].startswith("#"), line


@pytest.mark.parametrize("changed", [False, True])
def test_settings_file_is_checked_by_the_program(tmp_path: Path, changed: bool) -> None:
    file = Path(shutil.copy(SETTINGS_FILE, tmp_path))
    if changed:
        file.write_text(file.read_text().replace("server.socket_port", "server.port"))
    done = run(
        *(sys.executable, PROGRAM, "--config", file, "--check-config"),
        *("--connect", "test:///default", "--backup-dir", tmp_path),
    )
    assert done.returncode == (2 if changed else 0), done.stdout
    assert ("server.port" in done.stdout) == changed
