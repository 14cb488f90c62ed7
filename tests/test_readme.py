"""Every example in the README does what the README says, on the demo's machines.

A command that begins with `curl` and goes to the demo is run, a block of Python as well, and each
answer that is shown is compared. Anything else has its reason in `NOT_RUN`. Each block starts on a
fresh demo.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.daemon import PROGRAM, Daemon
from tests.lab import until

ROOT = Path(__file__).parent.parent
ADDRESS = "http://127.0.0.1:9001"
DEMO = f"test://{quote(str(ROOT / 'config' / 'demo.xml'))}"
PATIENCE = 60

# Examples that are not run here, each with the reason: commands, or the first line of a block that
# holds no commands.
NOT_RUN = {
    "make run": "it serves until it is stopped; test_demo_is_what_make_runs looks at it",
    "make test": "it is what runs this test",
    "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt": "make test does it",
    ".venv/bin/python libvirt_mc.py": "it manages the system's own libvirt",
    ".venv/bin/python libvirt_mc.py --connect qemu+ssh://root@host/system": "there is no such host",
    **dict.fromkeys(
        [
            ".venv/bin/python libvirt_mc.py --add-user admin --users users",
            "openssl genrsa -out key.pem 2048",
            'openssl req -x509 -key key.pem -days 3650 -subj "/CN=$(hostname -f)" '
            '-addext "subjectAltName=DNS:$(hostname -f)" -out cert.pem',
            ".venv/bin/python libvirt_mc.py --listen 0.0.0.0:9001 --users users "
            "--tls-cert cert.pem --tls-key key.pem",
            "curl --cacert cert.pem --digest -u admin "
            '"https://$(hostname -f):9001/service/machines"',
        ],
        "test_users_and_tls_as_shown does it, on the demo and on the loopback",
    ),
    **dict.fromkeys(
        [
            "umask 022",
            "install -D -m 644 config/libvirt-mc.sysusers /etc/sysusers.d/libvirt-mc.conf",
            "systemd-sysusers",
            "mkdir -p /opt/libvirt_mc",
            "cp -r libvirt_mc.py mc requirements.txt /opt/libvirt_mc",
            "python3 -m venv /opt/libvirt_mc/.venv",
            "/opt/libvirt_mc/.venv/bin/pip install -r /opt/libvirt_mc/requirements.txt",
            "install -d -o libvirt-mc -g libvirt-mc -m 750 /etc/libvirt_mc",
            "install -m 644 config/libvirt_mc.conf /etc/libvirt_mc",
            "install -m 644 config/libvirt-mc.service /etc/systemd/system",
            "systemctl enable --now libvirt-mc",
            "/opt/libvirt_mc/.venv/bin/python /opt/libvirt_mc/libvirt_mc.py "
            "--add-user admin --users /etc/libvirt_mc/users",
        ],
        "it changes the system, as root; tests/test_unit.py looks at what is installed",
    ),
    "curl --no-buffer http://127.0.0.1:9001/events": "test_changes_are_told_as_shown does it",
    'importlib.import_module(".libvirt_bmc", "mr_provisioner.bmc_types")': (
        "tests/provisioner.py loads the driver in Mr-Provisioner's place"
    ),
    **dict.fromkeys(
        [
            "sudo apt-get install --no-install-recommends openipmi ipmitool",
            "config/ipmi_sim/configure.py ipmi",
            "ipmi_sim -c ipmi/lan.conf -f ipmi/bmc.emu -s ipmi/state -n -p &",
            "export IPMI_PASSWORD=...",
            "ipmitool -I lanplus -C 3 -H 127.0.0.1 -p 6230 -U admin -E chassis power status",
        ],
        "tests/test_ipmi.py does it, at ports and in a folder of its own",
    ),
    "[global]": "tests/test_settings.py reads it",
    "location / {": "tests/test_proxy.py has nginx serve by it",
    "virsh define /var/lib/libvirt_mc/backups/web-1.xml.20260101T120000.000000Z.backup": (
        "tests/test_boot_kept.py does it, with a backup that exists"
    ),
}


@dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    line: int
    language: str
    text: str

    @property
    def is_shell(self) -> bool:
        return self.language in ("sh", "console")

    @property
    def examples(self) -> list[tuple[str, str]]:
        """Its commands, without comments, each with the answer shown; or else its first line."""
        if not self.is_shell:
            return [(self.text.partition("\n")[0], "")]
        if self.language == "console":
            examples = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        else:
            examples = self.text.replace("\\\n", " ").splitlines(keepends=True)
        found = [example.partition("\n") for example in examples]
        pairs = [(_bare(command), answer) for command, _, answer in found]
        return [(command, answer) for command, answer in pairs if command]

    def __str__(self) -> str:
        return f"{self.language}-{self.line}"


def _bare(command: str) -> str:
    """A command without its comment, with single blanks."""
    return re.sub(r"\s+", " ", re.sub(r"(^|\s+)#\s.*", "", command)).strip()


def _blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text("utf-8")
    return [
        Block(text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def _is_run(block: Block, example: str) -> bool:
    if example in NOT_RUN:
        return False
    if block.is_shell:
        return example.startswith("curl ") and ADDRESS in example
    return block.language in ("json", "python")


BLOCKS = _blocks()
EXAMPLES = [(block, example) for block in BLOCKS for example, _ in block.examples]
# The blocks in which anything is run, by their language.
SHELL, PYTHON, ANSWERS = (
    [
        one
        for one in BLOCKS
        if one.language in languages and any(_is_run(one, it) for it, _ in one.examples)
    ]
    for languages in (("sh", "console"), ("python",), ("json",))
)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon("--connect", DEMO, "--backup-dir", str(tmp_path / "backups")) as daemon:
        yield daemon


def _run(arguments: list[str], demo: Daemon, example: str) -> subprocess.CompletedProcess[str]:
    """Run an example by a program, with the demo's address in it."""
    here = f"http://127.0.0.1:{demo.port}"
    return subprocess.run(
        [*arguments, example.replace(ADDRESS, here)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"no_proxy": "*"},
        check=False,
    )


def _shell(demo: Daemon, command: str) -> str:
    """What a command prints; curl ends with an error where it gets one."""
    strict = 'curl() { command curl --fail-with-body --silent --show-error "$@"; }\n'
    done = _run(["sh", "-euc"], demo, strict + command)
    assert done.returncode == 0, done
    return done.stdout


def test_every_example_is_run_or_has_a_reason() -> None:
    """What this names wants a line in `NOT_RUN`, or to be taken out of it."""
    examples = [example for _, example in EXAMPLES]
    assert [it for block, it in EXAMPLES if not _is_run(block, it) and it not in NOT_RUN] == []
    assert [it for it in NOT_RUN if it not in examples] == []
    assert SHELL and PYTHON and ANSWERS


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_do_what_they_say(block: Block, demo: Daemon) -> None:
    for command, shown in block.examples:
        if _is_run(block, command):
            answer = json.loads(_shell(demo, command))
            assert answer == (json.loads(shown) if shown.strip() else answer)


@pytest.mark.parametrize("block", ANSWERS, ids=str)
def test_answer_is_what_the_first_command_before_it_gets(block: Block, demo: Daemon) -> None:
    command, _ = [one for one in SHELL if one.line < block.line][-1].examples[0]
    assert json.loads(_shell(demo, command)) == json.loads(block.text)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_does_what_it_says(block: Block, demo: Daemon) -> None:
    done = _run([sys.executable, "-W", "error", "-c"], demo, block.text)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_scripts_fail_on_errors(demo: Daemon) -> None:
    """And say why, in the controller's own words."""
    said = "libvirt has no machine 'nobody'"
    for block in PYTHON:
        done = _run([sys.executable, "-c"], demo, block.text.replace("/web-1/", "/nobody/"))
        assert done.returncode != 0
        assert said in done.stderr
    (command,) = [one for _, one in EXAMPLES if "--fail-with-body" in one]
    done = _run(["sh", "-c"], demo, command.replace("/web-1/", "/nobody/"))
    assert done.returncode != 0
    assert json.loads(done.stdout)["detail"] == said


def test_users_and_tls_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account, a certificate, a daemon with both, and a request: one after the other."""
    monkeypatch.chdir(tmp_path)
    add_user, make_key, certify, serve, ask = [
        example.replace("$(hostname -f)", "localhost")
        for block in BLOCKS
        for example, _ in block.examples
        if "--tls-cert" in block.text
    ]

    def run(command: str, typed: str = "") -> str:
        command = command.replace(".venv/bin/python libvirt_mc.py", f"{sys.executable} {PROGRAM}")
        done = subprocess.run(
            ["sh", "-euc", command],
            input=typed,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=os.environ | {"no_proxy": "*"},
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    run(add_user, "secret\n")
    run(make_key)
    run(certify)
    options = shlex.split(serve.partition(" --listen 0.0.0.0:9001 ")[2])
    with Daemon("--connect", DEMO, *options) as daemon:
        answer = run(ask.replace(":9001", f":{daemon.port}").replace("-u admin", "-u admin:secret"))
    assert "web-1" in [machine["name"] for machine in json.loads(answer)]


def _timeless(line: str) -> str:
    """What is told of a host, but for since when, and how many machines it has."""
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    return re.sub(rf'"since": "{time}", "machines": \d+', "", line)


def test_changes_are_told_as_shown(demo: Daemon, tmp_path: Path) -> None:
    """What is shown is a host with one machine, and that machine being switched off."""
    (command, shown), *_ = [
        example for block in BLOCKS for example in block.examples if "/events" in example[0]
    ]
    *beginning, machines, _, change = [line for line in shown.split("\n") if line]
    file = tmp_path / "told"
    with file.open("wb") as output:
        curl = subprocess.Popen(
            ["sh", "-euc", "exec " + command.replace(ADDRESS, f"http://127.0.0.1:{demo.port}")],
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"no_proxy": "*"},
        )
    try:
        told = until(
            lambda: [line for line in file.read_text().split("\n")[:-1] if line],
            PATIENCE,
            "list of machines",
            lambda lines: len(lines) > len(beginning),
        )
        assert [_timeless(line) for line in told[: len(beginning)]] == [
            _timeless(line) for line in beginning
        ]
        assert machines.removeprefix("data: [").removesuffix("]") in told[len(beginning)]
        demo.act("web-1", "force_off")
        until(lambda: file.read_text().split("\n"), PATIENCE, change, lambda lines: change in lines)
    finally:
        curl.kill()
        curl.wait(PATIENCE)


def test_demo_is_what_make_runs(demo: Daemon) -> None:
    """`make run` names commands to try, and serves the same machines at the same address."""
    told = subprocess.run(
        ["make", "--dry-run", "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        # This test may run under `make test LISTEN=...`.
        env={key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "LISTEN")},
    ).stdout
    assert "/config/demo.xml" in told
    assert f"--listen {ADDRESS.removeprefix('http://')}" in told
    commands = re.findall(rf"(curl {ADDRESS}\S+)\"", told)
    assert commands
    for command in commands:
        _shell(demo, command)
