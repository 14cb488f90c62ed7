"""What is told before anybody finds it out: by `--check-config`, and by the log at the start."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mc import libvirt_uri
from mc.users import add_user
from tests.certificate import certificate
from tests.daemon import PROGRAM, Daemon
from tests.hypervisor import hypervisor
from tests.lab import Laboratory, processes, until

PATIENCE = 60
EMBEDDED = ("--connect", "test:///default")


def check(*arguments: str, folder: Path, python: str = sys.executable) -> tuple[int, list[str]]:
    """The exit status of a check, and what it says, in the order that a terminal shows."""
    done = subprocess.run(
        [python, PROGRAM, "--check-config", *arguments],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=PATIENCE, check=False, text=True,
    )  # fmt: skip
    assert not re.search(r"Traceback|Errno|_ssl\.c|<string>", done.stdout), done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith("libvirt_mc: ") for line in lines), lines
    return done.returncode, [line.removeprefix("libvirt_mc: ") for line in lines]


def failed(*arguments: str, folder: Path) -> str:
    """The one thing that a check finds wrong."""
    status, lines = check(*arguments, folder=folder)
    wrong = [line for line in lines if line.startswith("failed: ")]
    assert (status, len(wrong)) == (1, 1), lines
    assert "the settings are valid" in lines
    return wrong[0].removeprefix("failed: ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Everything that a daemon may be given, and a file in which a connection has half a second."""
    certificate(tmp_path)
    add_user(tmp_path / "users", "admin", "secret")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("text")
    (tmp_path / "quick.conf").write_text("[global]\nlibvirt.read_seconds = 0.5\n")
    return tmp_path


@pytest.fixture
def mute() -> Iterator[str]:
    """The URI of a host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"qemu+tcp://127.0.0.1:{server.getsockname()[1]}/system"


def test_what_is_right_is_said_and_nothing_is_made(folder: Path) -> None:
    before = sorted(folder.iterdir())
    status, lines = check(
        *EMBEDDED, "--listen=127.0.0.1:0", "--users=users", "--backup-dir=backups",
        "--tls-cert=cert.pem", "--tls-key=key.pem", folder=folder,
    )  # fmt: skip
    assert status == 0
    version = lines.pop(4)
    assert re.fullmatch(r"ok: libvirt\.virsh: version [\d.]+", version)
    assert lines == [
        "the settings are valid",
        f"ok: --tls-cert: {folder}/cert.pem, with the key {folder}/key.pem",
        "ok: --listen: 127.0.0.1, port 0, is free",
        f"ok: --users: {folder}/users, accounts: 1",
        "ok: --connect: test:///default answers",
        f"ok: --backup-dir: {folder}/backups will be made when needed",
    ]
    assert sorted(folder.iterdir()) == before


def test_controller_that_runs_is_no_failure(folder: Path) -> None:
    """Its settings may be checked before it is restarted by them."""
    with Daemon(*EMBEDDED, "--backup-dir", str(folder)) as daemon:
        listen = f"--listen=127.0.0.1:{daemon.port}"
        status, lines = check(*EMBEDDED, listen, "--backup-dir=.", folder=folder)
        assert daemon.status("test")["state"] == "running"
    assert status == 0
    taken = f"port {daemon.port}, is taken now: by this controller, if it runs"
    assert f"ok: --listen: 127.0.0.1, {taken}" in lines
    assert f"ok: --backup-dir: {folder} can be written" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backup-dir=text"], "--backup-dir: HERE/text is not a folder"),
        (["--backup-dir=text/x"], "--backup-dir: HERE/text is not a folder"),
        (["--users=nope"], "--users: HERE/nope cannot be used: No such file or directory"),
        (["--users=pipe"], "--users: HERE/pipe cannot be used: it is not a file"),
        (["--listen=no-such-host.invalid:0", "--users=users"], "--listen: cannot listen on no-s"),
        (["--tls-cert=text", "--tls-key=key.pem"], "--tls-cert: HERE/text: it holds no certificat"),
        (["--tls-cert=cert.pem", "--tls-key=pipe"], "--tls-key: HERE/pipe: it is not a file"),
        (["--tls-cert=pipe", "--tls-key=key.pem"], "--tls-cert: HERE/pipe: it is not a file"),
        (
            ["--tls-cert=cert.pem", "--tls-key=locked"],
            "--tls-key: HERE/locked: the private key is ",
        ),
        (["--config=readers", "--users=users"], "readers: auth.readers: there is no user monitor"),
        (
            ["--connect=test:///nope.xml"],
            "--connect: test:///nope.xml cannot be reached: failed to",
        ),
        (["--connect=test://[x"], "--connect: test://[x cannot be reached: "),
    ],
)
def test_what_fails_is_named_on_a_line_of_its_own(
    folder: Path, arguments: list[str], words: str
) -> None:
    (folder / "readers").write_text("[global]\nauth.readers = ['monitor']\n")
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", "key.pem", "-out", "locked"],
        cwd=folder, capture_output=True, check=True,
    )  # fmt: skip
    defaults = [*EMBEDDED, "--listen=127.0.0.1:0", "--backup-dir=."]
    told = failed(*defaults, *arguments, folder=folder)
    assert told.startswith(words.replace("HERE", str(folder)))


def test_all_that_fails_is_told_at_once(folder: Path) -> None:
    (folder / "mc.conf").write_text("[global]\nlibvirt.virsh = '/bin/false'\n")
    status, lines = check("--config=mc.conf", "--users=no", "--backup-dir=text", folder=folder)
    assert status == 1
    assert [line.split(": ")[:3] for line in lines if line.startswith("failed")] == [
        ["failed", "--users", f"{folder}/no cannot be used"],
        ["failed", "mc.conf", "libvirt.virsh"],
        ["failed", "libvirt.uri", "not tried, for want of virsh"],
        ["failed", "--backup-dir", f"{folder}/text is not a folder"],
    ]


def test_missing_packages_are_among_what_fails(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", PROGRAM, "--check-config", *EMBEDDED, "--backup-dir", folder],
        capture_output=True, timeout=PATIENCE, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.match(r"libvirt_mc: failed: \S+ lacks CherryPy, lxml, prom", done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert "ok: --connect: test:///default answers" in done.stdout


def test_libvirt_that_does_not_answer_is_waited_for_as_long_as_is_set(
    fragile: Laboratory, folder: Path, mute: str
) -> None:
    quick = ("--config=quick.conf", "--listen=127.0.0.1:0", "--backup-dir=.")
    told = failed(*quick, "--connect", mute, folder=folder)
    assert told.startswith(
        f"--connect: {mute} cannot be reached: no answer within 0.5 s (libvirt.r"
    )
    fragile.libvirtd.freeze()
    told = failed(*quick, "--connect", fragile.uri, folder=folder)
    fragile.libvirtd.thaw()
    assert "cannot be reached: no answer within 0.5 s (libvirt.read_seconds)" in told


def test_slip_in_a_uri_is_told_from_libvirts_being_away(fragile: Laboratory, folder: Path) -> None:
    usual = ("--listen=127.0.0.1:0", "--backup-dir=.")
    for slip, hint in (
        (fragile.uri.replace("/session", "/sesion"), "is the path '/session' meant?"),
        (fragile.uri.replace("qemu", "qmeu"), "libvirt has no driver 'qmeu': is 'qemu' meant?"),
        ("qemu:///sytem", "is the path '/system' meant?"),
        ("lab", "it is no URI, and so an alias that libvirt.conf should have"),
        ("test:///no%20such.xml", "there is no file /no such.xml"),
        ("qemu+unix:///system?socket=/nonexistent", "does libvirt run, and may this user use it?"),
    ):
        told = failed(*usual, "--connect", slip, folder=folder)
        assert told.startswith(f"--connect: {slip} cannot be reached: ")
        assert told.endswith(f" ({hint})")


def hosts(folder: Path, **sections: str) -> str:
    """The option for settings with these sections of hosts."""
    text = "\n".join(f"[/hosts/{name}]\n{lines}" for name, lines in sections.items())
    (folder / "hosts.conf").write_text(
        f"[global]\nserver.socket_port = 0\nlibvirt.read_seconds = 600\n{text}\n"
    )
    return f"--config={folder}/hosts.conf"


def test_each_host_has_a_line_and_each_virsh_one(folder: Path) -> None:
    (folder / "virsh").symlink_to("/usr/bin/virsh")
    config = hosts(
        folder,
        c="libvirt.uri = 'test:///default?no_verify=1'",
        b=f"libvirt.uri = 'test:///nope.xml'\nlibvirt.virsh = '{folder}/virsh'",
        a="libvirt.uri = 'qemu:///system'\nlibvirt.virsh = '/bin/false'",
        d=f"libvirt.uri = 'nope'\nlibvirt.virsh = '{folder}/virsh'",
    )
    status, lines = check(config, "--listen=127.0.0.1:0", "--backup-dir=b", folder=folder)
    assert status == 1
    file = f"{folder}/hosts.conf"
    begins = [
        "the settings are valid",
        "ok: --listen: ",
        "ok: libvirt.virsh: version ",
        f"ok: {file}: [/hosts/b] libvirt.virsh: version ",
        f"failed: {file}: [/hosts/a] libvirt.virsh: /bin/false does not run: ",
        f"warning: {file}: [/hosts/c] libvirt.uri: whoever answers in the host's place ",
        f"ok: {file}: [/hosts/c] libvirt.uri: test:///default?no_verify=1 answers",
        f"failed: {file}: [/hosts/b] libvirt.uri: test:///nope.xml cannot be reached: ",
        f"failed: {file}: [/hosts/a] libvirt.uri: not tried, for want of virsh",
        f"failed: {file}: [/hosts/d] libvirt.uri: nope cannot be reached: ",
        f"ok: --backup-dir: {folder}/b will be made when needed",
    ]
    assert len(lines) == len(begins), lines
    assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=True)), lines


def test_warning_is_no_failure(folder: Path) -> None:
    config = hosts(folder, a="libvirt.uri = 'test:///default?no_verify=1'")
    status, lines = check(config, "--listen=127.0.0.1:0", "--backup-dir=b", folder=folder)
    assert (status, sum(line.startswith("warning: ") for line in lines)) == (0, 1)


@pytest.fixture
def mutes() -> Iterator[list[socket.socket]]:
    """Twenty hosts that take connections and say nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(20)]


def mute_sections(mutes: list[socket.socket]) -> dict[str, str]:
    ports = [mute.getsockname()[1] for mute in mutes]
    return {f"m{port}": f"libvirt.uri = 'qemu+tcp://127.0.0.1:{port}/system'" for port in ports}


def outcomes(said: str) -> list[tuple[str, str]]:
    return re.findall(r"^libvirt_mc: (\w+): \S+ \[/hosts/(\w+)\] libvirt.uri: ", said, re.M)


def test_hosts_that_do_not_answer_are_waited_for_all_at_once(
    folder: Path, mutes: list[socket.socket]
) -> None:
    """Were they not, the last would not be asked before the first had its ten minutes."""
    sections = mute_sections(mutes)
    for number in range(20):
        uri = hypervisor(folder / f"{number}.xml", [("vm", "running")])
        sections[f"t{number}"] = f"libvirt.uri = '{uri}'"
    with ExitStack() as stack, subprocess.Popen(
        [sys.executable, PROGRAM, "--check-config", hosts(folder, **sections)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        stack.callback(process.kill)
        connections = []
        for mute in mutes:
            mute.settimeout(PATIENCE)
            connections.append(stack.enter_context(mute.accept()[0]))
        for connection in connections:
            connection.close()
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert outcomes(said) == [("ok" if name[0] == "t" else "failed", name) for name in sections]


def test_hosts_for_which_files_run_out_are_told(folder: Path, mutes: list[socket.socket]) -> None:
    sections = mute_sections(mutes)
    config = hosts(
        folder, **{name: f"{uri}\nlibvirt.read_seconds = 5" for name, uri in sections.items()}
    )
    done = subprocess.run(
        ["prlimit", "--nofile=40", sys.executable, PROGRAM, "--check-config", config],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=PATIENCE, check=False, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stdout, done.stdout
    assert done.returncode == 1
    assert outcomes(done.stdout) == [("failed", name) for name in sections]
    assert "Too many open files (" in done.stdout


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu+ssh://h/system?no_tty=1", []),
        ("qemu+tls://h/system?no_verify=0", []),
        ("qemu+tls://h/system?no_verify=1", ["is verified"]),
        ("qemu+tls://h/system?pkipath=/x;no_verify=1", ["is verified"]),
        ("qemu+ssh://h/system?No_Verify=1&no_tty=1", ["is verified"]),
        ("qemu+libssh://h/system?sshauth=agent&known_hosts_verify=ignore", ["is verified"]),
        ("qemu+ssh://h/system?socket=/run/s&no_verify=1", ["is verified", "nc on the host"]),
        ("qemu+libssh2://h/system?sshauth=agent&socket=/run/s", ["nc on the host"]),
        ("qemu+unix:///system?socket=/run/s", []),
        ("qemu+tcp://h/system", ["+tcp is not encrypted"]),
        ("qemu+TCP://192.0.2.1/system", ["+tcp is not encrypted"]),
        ("qemu+tcp://127.0.0.1/system", []),
        ("qemu+tcp://[::1]/system", []),
        ("qemu+tcp://localhost/system", []),
        ("qemu+tcp:///system", []),
        ("qemu+tls://h/system", []),
        ("alias", []),
        ("test://[x", []),
    ],
)
def test_what_is_unsafe_or_brittle_about_a_uri(uri: str, words: list[str]) -> None:
    found = libvirt_uri.warnings(uri)
    assert len(found) == len(words)
    assert all(one in text for one, text in zip(words, found, strict=True))


def warnings(daemon: Daemon) -> list[str]:
    return re.findall(r" WARNING mc\.(?:checks|hosts\.host): (.*)", daemon.log())


def test_start_at_which_all_is_well_warns_of_nothing(folder: Path) -> None:
    with Daemon(*EMBEDDED, "--backup-dir", str(folder)) as daemon:
        assert daemon.status("test")["state"] == "running"
        assert "WARNING" not in daemon.log()


@pytest.mark.parametrize("uri", ["qmeu:///system", "test:///nope.xml"])
def test_start_warns_of_what_will_not_work_and_serves(folder: Path, uri: str) -> None:
    with Daemon("--connect", uri, "--backup-dir", str(folder / "text")) as daemon:
        until(lambda: len(warnings(daemon)) == 2, PATIENCE, "warnings")
        assert daemon.get("/service/machines").status == 503
        of_folder, of_libvirt = sorted(warnings(daemon))
    assert of_libvirt.startswith(f"--connect: {uri} cannot be reached: ")
    assert of_libvirt.endswith("; it is tried again as needed")
    assert of_folder.startswith(
        f"--backup-dir: {folder}/text is not a folder; no boot order can be"
    )


def test_start_does_not_wait_for_libvirt_nor_does_the_end(folder: Path, mute: str) -> None:
    (folder / "slow.conf").write_text("[global]\nlibvirt.read_seconds = 600\n")
    with Daemon("--connect", mute, "--config", str(folder / "slow.conf")) as daemon:
        virshs = until(daemon.children, PATIENCE, "first connection")
        daemon.stop()
        assert daemon.process.returncode == 0
        assert all(processes.state(pid) in ("", "Z") for pid in virshs)
        assert warnings(daemon) == []


def test_start_warns_of_what_is_unsafe_about_each_host(folder: Path) -> None:
    config = hosts(
        folder,
        a="libvirt.uri = 'test:///default'",
        b="libvirt.uri = 'qemu+tls://127.0.0.1:1/system?no_verify=1'",
    )
    with Daemon(config, "--backup-dir", str(folder)) as daemon:
        (said,) = warnings(daemon)
    assert said.startswith(f"{folder}/hosts.conf: [/hosts/b] libvirt.uri: whoever answers in ")


def test_virsh_of_one_host_that_cannot_be_used_is_named_at_the_start(folder: Path) -> None:
    config = hosts(
        folder,
        a="libvirt.uri = 'test:///default'",
        b="libvirt.uri = 'test:///b'\nlibvirt.virsh = '/bin/true'",
    )
    done = subprocess.run(
        [sys.executable, PROGRAM, config, "--listen=127.0.0.1:0"],
        capture_output=True, timeout=PATIENCE, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    label = f"{folder}/hosts.conf: [/hosts/b] libvirt.virsh"
    assert done.stderr == f"libvirt_mc: {label}: /bin/true is not libvirt's virsh: it says ''\n"
