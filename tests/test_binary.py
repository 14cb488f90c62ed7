"""Which virsh can be used: the real one, what is none, and builds that will not do."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mc.errors import VirshUnusable
from mc.virsh import binary, check_binary
from mc.virsh.binary import connecting
from tests.lab import Laboratory

# What `virsh --version=long` prints, which other builds are made of here.
LONG = """Virsh command line tool of libvirt {version}
See web site at https://libvirt.org/

Compiled with support for:
 Hypervisors: QEMU/KVM Test
 Miscellaneous: Daemon Debug{readline}
"""


def build(folder: Path, script: str) -> str:
    """Another program in the place of virsh."""
    file = folder / "virsh"
    file.write_text(f"#!/bin/sh\n{script}\n", "latin-1")
    file.chmod(0o755)
    return str(file)


def build_of(folder: Path, version: str, readline: str = " Readline") -> str:
    text = LONG.format(version=version, readline=readline)
    return build(folder, f"test \"$*\" = --version=long && cat <<'END'\n{text}END")


def test_virsh_of_this_machine_is_usable() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", check_binary("virsh"))


def test_path_of_virsh_is_as_good_as_its_name() -> None:
    path = shutil.which("virsh")
    assert path
    assert check_binary(path) == check_binary("virsh")


@pytest.mark.parametrize("version", ["9.0.0", "9.1.0", "9.10.3", "10.0.0", "12.34.56"])
def test_new_enough_build_is_usable(tmp_path: Path, version: str) -> None:
    assert check_binary(build_of(tmp_path, version)) == version


@pytest.mark.parametrize("version", ["8.10.0", "8.0.0", "4.5.0", "0.9.13"])
def test_old_build_is_refused(tmp_path: Path, version: str) -> None:
    file = build_of(tmp_path, version)
    with pytest.raises(VirshUnusable) as caught:
        check_binary(file)
    assert str(caught.value) == f"{file} is version {version}: 9.0 or newer is needed"


def test_build_without_readline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VirshUnusable, match="was built without readline"):
        check_binary(build_of(tmp_path, "9.0.0", readline=""))


@pytest.mark.parametrize("file", ["/nonexistent/virsh", "no-such-virsh"])
def test_missing_virsh_names_the_package(file: str) -> None:
    with pytest.raises(VirshUnusable) as caught:
        check_binary(file)
    assert str(caught.value) == (
        f"{file} was not found: install virsh (the package libvirt-clients on Debian and Ubuntu, "
        "libvirt-client on Fedora and SUSE), or say where it is with libvirt.virsh"
    )


def test_virsh_outside_an_empty_path_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(VirshUnusable, match="libvirt-clients"):
        check_binary("virsh")


def test_program_that_says_nothing_is_not_virsh() -> None:
    with pytest.raises(VirshUnusable, match="/bin/true is not libvirt's virsh: it says ''"):
        check_binary("/bin/true")


def test_program_that_says_something_else_is_not_virsh() -> None:
    with pytest.raises(VirshUnusable, match="is not libvirt's virsh: it says '--version=long"):
        check_binary("/bin/echo")


def test_program_that_says_no_text_is_not_virsh(tmp_path: Path) -> None:
    with pytest.raises(VirshUnusable, match="is not libvirt's virsh"):
        check_binary(build(tmp_path, "printf '\\377\\200'"))


def test_long_babble_is_cut(tmp_path: Path) -> None:
    with pytest.raises(VirshUnusable) as caught:
        check_binary(build(tmp_path, "yes | head -c 1000000"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("script", ["exit 1", "exit 127", "kill -KILL $$"])
def test_program_that_fails_does_not_run(tmp_path: Path, script: str) -> None:
    with pytest.raises(VirshUnusable, match="does not run"):
        check_binary(build(tmp_path, script))


@pytest.mark.parametrize("file", ["/etc", "/etc/passwd", "/etc/passwd/virsh"])
def test_what_is_no_program_does_not_run(file: str) -> None:
    with pytest.raises(VirshUnusable, match="does not run"):
        check_binary(file)


def test_program_that_hangs_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_SECONDS", 0.2)
    with pytest.raises(VirshUnusable, match="does not run"):
        check_binary(build(tmp_path, "exec sleep 600"))


def test_program_that_asks_gets_no_answer(tmp_path: Path) -> None:
    """It must not take the daemon's standard input."""
    with pytest.raises(VirshUnusable, match="it says 'end"):
        check_binary(build(tmp_path, "read line || echo end of file"))


KEEPALIVE = ["-k", "5", "-K", "2"]


@pytest.mark.parametrize(
    "uri",
    [
        *("qemu:///system", "qemu:///session", "qemu://host/system", "lxc:///", "xen:///system"),
        *("qemu+unix:///session?socket=/run/sock", "test+unix:///default?socket=/run/sock"),
        *("qemu+tls://h/system", "qemu+tcp://h/system", "qemu+ssh://me@h/system?no_tty=1"),
        *("qemu+libssh2://h/system", "vbox+ssh://h/session", "qemu:///embedded"),
    ],
)
def test_libvirt_daemon_is_asked_to_keep_alive(uri: str) -> None:
    assert connecting("virsh", uri) == ["virsh", "-q", *KEEPALIVE, "-c", uri]


@pytest.mark.parametrize(
    "uri",
    [
        *("test:///default", "test:///a+b:/c.xml", "qemu:///embed", "qemu:///embed?root=/var/x"),
        *("qemu:/embed?root=/x", "secret:///embed?root=/x", "esx://host/?no_verify=1"),
        *("vpx://host/dc", "openvz:///system", "vmwarews:///session", "kvm1", ""),
    ],
)
def test_driver_in_virsh_itself_is_not_asked_to_keep_alive(uri: str) -> None:
    """virsh would not connect: `test_driver_in_virsh_itself_refuses_keepalive`."""
    assert connecting("virsh", uri) == ["virsh", "-q", "-c", uri]


def virsh_uri(uri: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*connecting("virsh", uri), *options, "uri"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("uri", ["test:///default", "secret:///embed?root={folder}"])
def test_driver_in_virsh_itself_refuses_keepalive(tmp_path: Path, uri: str) -> None:
    uri = uri.format(folder=tmp_path)
    assert virsh_uri(uri).returncode == 0
    refused = virsh_uri(uri, *KEEPALIVE)
    assert refused.returncode != 0
    assert "virConnectSetKeepAlive" in refused.stderr


def test_libvirt_daemon_takes_keepalive(lab: Laboratory) -> None:
    assert virsh_uri(lab.uri).returncode == 0
