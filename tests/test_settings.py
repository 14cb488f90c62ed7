"""Every setting: its default, its type, its limits, and the file that it comes from."""

import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from mc import settings
from mc.errors import SettingsError
from mc.settings import OF_HOST, SETTINGS, HostSettings, Settings
from tests.daemon import PROGRAM
from tests.lab import processes, until

# For each setting: values that it takes beside its default, and values that it must refuse.
GOOD: dict[str, list[object]] = {
    "server.socket_host": ["127.0.0.2", "::1", "localhost"],
    "server.socket_port": [0, 1, 80, 65535],
    "server.thread_pool": [2, 1000],
    "server.socket_queue_size": [1, 65535],
    "server.socket_timeout": [1, 1.5, 3600],
    "server.max_request_header_size": [1024, 1 << 20],
    "server.max_request_body_size": [1024, 1 << 20],
    "server.max_connections": [8, 65535],
    "server.ssl_certificate": ["/etc/mc/cert.pem"],
    "server.ssl_private_key": ["/etc/mc/key.pem"],
    "server.names": [("lab",), ("lab.example.org", "lab")],
    "server.trusted_proxies": [("127.0.0.1",), ("10.0.0.0/8", "2001:db8::/32", "::1")],
    "auth.users_file": ["", "/etc/mc/users"],
    "auth.readers": [("monitor",), ("a b", "ü")],
    "auth.anonymous": [True, False],
    "service.event_streams": [0, 1000],
    "libvirt.machines": [("lab-*",), ("ci-[0-9]*", "*")],
    "log.level": ["debug", "info", "warning", "error"],
    "libvirt.uri": [
        *("test:///default", "test:///a/b.xml", "qemu:///session", "qemu+ssh://root@host/system"),
        *("qemu+unix:///session?socket=/run/s", "xen:///", "esx://h/?no_verify=1", "lxc:///"),
        *("qemu+ssh://[::1]:22/system", "my-alias", "alias_2"),
    ],
    "libvirt.virsh": ["/usr/bin/virsh", "virsh-10", "/opt/my virsh"],
    "libvirt.read_sessions": [1, 64],
    "libvirt.action_sessions": [1, 64],
    "libvirt.read_seconds": [0.1, 1, 600],
    "libvirt.action_seconds": [0.1, 1, 3600.0],
    "libvirt.list_seconds": [0.1, 1, 60],
    "libvirt.shutdown_mode": ["", "acpi", "agent", "acpi,agent", "initctl,signal,paravirt"],
    "service.state_words": ["libvirt", "power"],
    "service.turn_seconds": [0, 0.5, 3600],
    "boot.backup_dir": ["/", "/var/backups", "/a b/ü"],
    "boot.backups_kept": [1, 100000],
    "boot.grace_seconds": [0, 0.5, 600],
}
IMPOSSIBLE: dict[str, list[object]] = {
    "server.socket_host": ["", " ", "a\nb", "a\0b"],
    "server.socket_port": [-1, 65536, 10**30],
    "server.thread_pool": [0, 1, 1001, -40],
    "server.socket_queue_size": [0, 65536],
    "server.socket_timeout": [0, 0.99, 3601],
    "server.max_request_header_size": [0, 1023, (1 << 20) + 1],
    "server.max_request_body_size": [0, 1023, (1 << 20) + 1],
    "server.max_connections": [7, 65536],
    "server.ssl_certificate": ["cert.pem", "/a\0b"],
    "server.ssl_private_key": ["key.pem", "/a\0b"],
    "server.names": [("",), ("lab", " ")],
    "server.trusted_proxies": [("",), ("proxy",), ("10.0.0.1/8",), ("10.0.0.0/33",), ("1.2.3",)],
    "auth.users_file": ["users", "~/users", "/a\0b"],
    "auth.readers": [("",), ("a:b",), ("a\n",), ("monitor", "")],
    "auth.anonymous": [],
    "service.event_streams": [-1, 1001],
    "libvirt.machines": [("",), ("*", " ")],
    "log.level": ["", "INFO", "verbose", "critical"],
    "libvirt.uri": ["", " ", "qemu:", "qemu:///a b", "qemu:///a\n", "a b", "://x", "qemu+:///x"],
    "libvirt.virsh": ["", "\t", "vir\0sh", "virsh\n"],
    "libvirt.read_sessions": [0, 65, -1],
    "libvirt.action_sessions": [0, 65, -1],
    "libvirt.read_seconds": [0, 0.09, 600.1, -1],
    "libvirt.action_seconds": [0, 0.09, 3600.1],
    "libvirt.list_seconds": [0, 0.09, 61, -1],
    "libvirt.shutdown_mode": ["reset", "acpi,", "acpi agent", "ACPI", "none", "--help"],
    "service.state_words": ["", "on", "Libvirt", "LIBVIRT"],
    "service.turn_seconds": [-0.1, 3601],
    "boot.backup_dir": ["", "backups", "./backups", "~/backups", "/a\0b"],
    "boot.backups_kept": [0, -1, 100001],
    "boot.grace_seconds": [-1, 601],
}
NO_NUMBERS: list[object] = [
    "1",
    "1.0",
    "False",
    "",
    True,
    False,
    None,
    [1],
    (1,),
    {"a": 1},
    1j,
    b"1",
]
NO_TEXTS: list[object] = [1, 1.5, True, False, None, ["x"], ("x",), b"x", {"x": 1}]
OF_WRONG_TYPE: dict[Any, list[object]] = {
    int: [*NO_NUMBERS, 1.0, 9.5],
    float: [*NO_NUMBERS, float("nan"), float("inf"), float("-inf")],
    str: NO_TEXTS,
    bool: [0, 1, "True", "", None, [True]],
    tuple[str, ...]: ["x", 1, None, True, (1,), ("a", None), {"a": "b"}, (b"x",)],
}
# Settings that are possible only together with others.
TOGETHER: dict[str, dict[str, object]] = {
    "server.ssl_certificate": {"server.ssl_private_key": "/etc/mc/key.pem"},
    "server.ssl_private_key": {"server.ssl_certificate": "/etc/mc/cert.pem"},
    "auth.readers": {"auth.users_file": "/etc/mc/users"},
}


def cases(table: dict[str, list[object]]) -> list[tuple[str, object]]:
    return [(key, value) for key, values in table.items() for value in values]


def wrong_types() -> list[tuple[str, object]]:
    return [(key, value) for key, one in SETTINGS.items() for value in OF_WRONG_TYPE[one.type]]


def value_of(chosen: Settings, key: str) -> Any:
    return getattr(chosen.hosts[0] if key in OF_HOST else chosen, SETTINGS[key].name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "libvirt_mc.conf"


def told(key: str, value: object) -> str:
    """How a value of the command line is named that is at fault: its option, if there is one."""
    option = SETTINGS[key].metadata["option"]
    shown = list(value) if isinstance(value, tuple) else value
    return f"{option} {shown!r}: " if option != key else f"{key} = {shown!r}: "


def load(file: Path, text: str) -> Settings:
    file.write_text(text, "utf-8")
    return settings.load(file, {})


def test_defaults_are_valid() -> None:
    assert Settings() == settings.load(None, {})


def test_every_setting_is_tried() -> None:
    assert set(GOOD) == set(IMPOSSIBLE) == set(SETTINGS)


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(("key", "value"), cases(GOOD))
def test_possible_value_is_taken(key: str, value: object) -> None:
    assert value_of(settings.load(None, {key: value} | TOGETHER.get(key, {})), key) == value


@pytest.mark.parametrize(("key", "value"), cases(GOOD))
def test_possible_value_is_read_from_the_file(file: Path, key: str, value: object) -> None:
    lines = [f"{name} = {one!r}" for name, one in {key: value, **TOGETHER.get(key, {})}.items()]
    assert value_of(load(file, "\n".join(["[global]", *lines])), key) == value


@pytest.mark.parametrize(("key", "value"), cases(IMPOSSIBLE))
def test_impossible_value_is_refused(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match="must") as caught:
        settings.load(None, {key: value})
    assert (caught.value.key, caught.value.value) == (key, value)
    assert str(caught.value).startswith(told(key, value) + "must ")


@pytest.mark.parametrize(("key", "value"), cases(IMPOSSIBLE))
def test_impossible_value_in_the_file_is_named_with_the_file(
    file: Path, key: str, value: object
) -> None:
    value = list(value) if isinstance(value, tuple) else value
    with pytest.raises(SettingsError) as caught:
        load(file, f"[global]\n{key} = {value!r}\n")
    assert str(caught.value).startswith(f"{file}: {key} = {value!r}: must ")


def test_every_option_of_a_setting_is_one_of_the_command_line() -> None:
    help_text = subprocess.run(
        [sys.executable, PROGRAM, "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = {one.metadata["option"] for one in SETTINGS.values()} - set(SETTINGS)
    named = set(re.findall(r"^  (--[a-z-]+) ", help_text, re.M))
    assert options == named - {"--config", "--add-user", "--check-config", "--version"}


def test_value_that_is_longer_than_anybody_reads_is_cut() -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(None, {"libvirt.uri": "x y" * 10_000})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("key", "value"), wrong_types())
def test_value_of_the_wrong_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(None, {key: value})
    assert str(caught.value).startswith(told(key, value) + "must be ")
    assert not re.search(r"\b(str|int|float|bool|tuple)\b", caught.value.reason)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "float('inf')", "9001 + 1"])
def test_number_that_is_none_is_refused_in_the_file(file: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"libvirt_mc\.conf: libvirt\.read_seconds = "):
        load(file, f"[global]\nlibvirt.read_seconds = {value}\n")


@pytest.mark.parametrize("key", ["libvirt.url", "uri", "Libvirt.uri", "libvirt.uri ", "tools.x.on"])
def test_unknown_key_is_refused(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(None, {key: "test:///default"})
    assert str(caught.value) == f"{key} = 'test:///default': there is no such setting"


def test_unknown_key_in_the_file_is_refused(file: Path) -> None:
    words = r"libvirt_mc\.conf: server\.socket_prot = 80: there is no such setting"
    with pytest.raises(SettingsError, match=words):
        load(file, "[global]\nserver.socket_prot = 80\n")


@pytest.mark.parametrize("value", ["qemu:///system", "a b", "'x", "print(1)", "", "x = 1"])
def test_text_without_quotes_is_refused(file: Path, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(file, f"[global]\nlibvirt.uri = {value}\n")
    assert str(caught.value) == (
        f"{file}: libvirt.uri = {value!r}: must be a Python literal; text needs quotes"
    )


@pytest.mark.parametrize(
    "value", ["{[]: 1}", "-" * 5000 + "1", "'\\x'", "1" * 5000, "0x" + "f" * 5000]
)
def test_literal_that_python_cannot_make_is_refused(file: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"libvirt_mc\.conf: libvirt\.uri = "):
        load(file, f"[global]\nlibvirt.uri = {value}\n")


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "[global]\n", "[global]\n; nothing\n"])
def test_file_that_sets_nothing_leaves_the_defaults(file: Path, text: str) -> None:
    assert load(file, text) == Settings()


def test_comments_are_no_values(file: Path) -> None:
    text = "# a\n[global]\n; b\nserver.socket_port = 1 # c\nlibvirt.uri = 'test:///a#b' # d\n"
    chosen = load(file, text)
    assert (chosen.port, chosen.hosts[0].uri) == (1, "test:///a#b")


def test_percent_sign_means_itself(file: Path) -> None:
    text = "[global]\nlibvirt.uri = 'qemu+ssh://h/system?keyfile=%(x)s%2F'\n"
    assert load(file, text).hosts[0].uri == "qemu+ssh://h/system?keyfile=%(x)s%2F"


def test_file_is_utf_8(file: Path) -> None:
    assert load(file, "[global]\nboot.backup_dir = '/ü/测试'\n").backup_dir == "/ü/测试"


HOSTS = """
[global]
libvirt.read_seconds = 7
libvirt.machines = ["ci-*"]
[/hosts/kvm2.example]
libvirt.uri = "test:///two"
libvirt.virsh = "virsh-10"
libvirt.machines = ["lab-*"]
libvirt.read_sessions = 1
libvirt.action_sessions = 3
libvirt.read_seconds = 0.5
libvirt.action_seconds = 9
libvirt.shutdown_mode = "acpi"
[/hosts/0-kvm]
libvirt.uri = "test:///one"
"""


def test_host_is_what_its_section_says_and_else_as_global(file: Path) -> None:
    assert load(file, HOSTS).hosts == (
        HostSettings(
            "kvm2.example", "test:///two", "virsh-10", ("lab-*",), 1, 3, 0.5, 9, "acpi"
        ),
        HostSettings("0-kvm", "test:///one", machines=("ci-*",), read_seconds=7),
    )  # fmt: skip
    assert settings.load(file, {"libvirt.read_seconds": 8}).hosts[1].read_seconds == 8


def test_readmes_example_of_hosts_is_right(file: Path) -> None:
    text = (PROGRAM.parent / "README.md").read_text()
    first, second = load(file, text.split("```ini\n")[1].split("```")[0]).hosts
    assert (first.name, first.machines, first.read_seconds) == ("kvm1", (), 10.0)
    assert (second.name, second.machines, second.read_seconds) == ("kvm2", ("lab-*",), 10.0)


def test_without_sections_there_is_one_host() -> None:
    (host,) = settings.load(None, {"libvirt.uri": "test:///x"}).hosts
    assert host == HostSettings("local", "test:///x")


@pytest.mark.parametrize("given", ["file", "line"])
def test_uri_for_all_hosts_is_refused(file: Path, given: str) -> None:
    in_file, option = "", {"libvirt.uri": "qemu:///system"}
    if given == "file":
        in_file, option = "libvirt.uri = 'qemu:///system'\n", {}
    file.write_text(f"[global]\n{in_file}[/hosts/a]\nlibvirt.uri = 'test:///a'\n")
    with pytest.raises(SettingsError) as caught:
        settings.load(file, option)
    label = f"{file}: libvirt.uri =" if in_file else "--connect"
    reason = "there are sections [/hosts/...], and each of them has its own: leave this one out"
    assert str(caught.value) == f"{label} 'qemu:///system': {reason}"


@pytest.mark.parametrize("text", ["", "libvirt.machines = ['x']\n"])
def test_host_without_a_uri_is_refused(file: Path, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(file, f"[/hosts/a]\n{text}")
    assert (
        str(caught.value)
        == f"--config {str(file)!r}: [/hosts/a] has no libvirt.uri, which each host needs"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        *((f"{key} = {SETTINGS[key].default!r}", "it is not about one host: it belongs into [glo")
          for key in SETTINGS if key not in OF_HOST),
        ("libvirt.url = 'x'", "there is no such setting"),
        ("name = 'x'", "there is no such setting"),
        ("libvirt.read_seconds = '5'", "must be a number"),
        ("libvirt.read_seconds = 0", "must be between 0.1 and 600"),
        ("libvirt.machines = 'x'", "must be a list of texts"),
        ("libvirt.virsh = virsh", "must be a Python literal; text needs quotes"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_section_is_told_with_it(file: Path, line: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(file, f"[/hosts/a]\nlibvirt.uri = 'test:///a'\n{line}\n")
    assert str(caught.value).startswith(f"{file}: [/hosts/a] {line.split(' = ')[0]} = ")
    assert f": {reason}" in str(caught.value)


def test_default_that_is_wrong_is_told_though_each_host_has_its_own(file: Path) -> None:
    own = "[/hosts/a]\nlibvirt.uri = 'test:///a'\nlibvirt.read_seconds = 1\n"
    with pytest.raises(SettingsError) as caught:
        load(file, f"{own}[global]\nlibvirt.read_seconds = 0\n")
    assert str(caught.value).startswith(f"{file}: libvirt.read_seconds = 0: must be between")


def test_setting_of_a_host_is_called_by_where_it_was_given(file: Path) -> None:
    text = "[global]\nlibvirt.virsh = 'v'\n[/hosts/a]\nlibvirt.uri = 'test:///a'\n"
    file.write_text(text)
    chosen = settings.load(file, {"log.level": "info", "server.socket_host": "127.0.0.1"})
    assert chosen.label("libvirt.uri", "a") == f"{file}: [/hosts/a] libvirt.uri"
    assert chosen.label("libvirt.virsh", "a") == f"{file}: libvirt.virsh"
    assert chosen.label("libvirt.machines", "a") == "libvirt.machines"
    assert chosen.label("log.level") == "--log-level"
    assert chosen.label("server.socket_host") == "--listen"
    assert Settings().label("libvirt.uri", "local") == "libvirt.uri"


SAME = [
    ("qemu:///system", "qemu:///system/"),
    ("qemu:///system", "QEMU+unix:///system"),
    ("qemu+ssh://kvm1/system", "qemu+ssh://KVM1:22/system?no_tty=1"),
    ("qemu://kvm1/system", "qemu+tls://kvm1:16514/system?pkipath=/x&no_verify=1"),
    ("qemu+tcp://kvm1/system", "qemu+tcp://kvm1:16509/system"),
    ("qemu+ssh://kvm1/system?socket=/a&netcat=b", "qemu+ssh://kvm1/system?netcat=b&Socket=%2Fa"),
    ("xen:///", "xen:///system"),
    ("test:///a%20b", "test:///a%20b"),
    ("kvm1", "kvm1"),
    ("test://[x", "test://[x"),
]
OTHER = [
    ("qemu:///system", "qemu:///session"),
    ("qemu:///system", "qemu:///system?socket=/run/other"),
    ("qemu+ssh://kvm1/system", "qemu+ssh://kvm2/system"),
    ("qemu+ssh://kvm1/system", "qemu+ssh://kvm1:2222/system"),
    ("qemu+ssh://kvm1/system", "qemu+tls://kvm1/system"),
    ("qemu+ssh://a@kvm1/session", "qemu+ssh://b@kvm1/session"),
    ("test:///a", "test:///A"),
    ("kvm1", "Kvm1"),
]


@pytest.mark.parametrize(("one", "other"), SAME + OTHER)
def test_one_libvirt_cannot_be_two_hosts(file: Path, one: str, other: str) -> None:
    text = f"[/hosts/a]\nlibvirt.uri = {one!r}\n[/hosts/b]\nlibvirt.uri = {other!r}\n"
    if (one, other) in OTHER:
        assert [host.uri for host in load(file, text).hosts] == [one, other]
        return
    with pytest.raises(SettingsError) as caught:
        load(file, text)
    reason = "it is the libvirt of [/hosts/a] already"
    assert str(caught.value) == f"{file}: [/hosts/b] libvirt.uri = {other!r}: {reason}"


@pytest.mark.parametrize("transport", ["libssh", "LIBSSH2"])
@pytest.mark.parametrize(
    ("query", "is_taken"),
    [
        *(("", False), ("?no_tty=1", False), ("?sshauth=", False), ("?sshauth=password", False)),
        *(("?sshauth=privkey,password", False), ("?sshauth=agent&sshauth=password", False)),
        *(("?sshauth=agent;sshauth=password", False), ("?keyfile=sshauth=agent", False)),
        *(("?sshauth=privkey", True), ("?sshauth=agent,privkey&no_tty=1", True)),
        ("?SSHAuth=%41gent", True),
    ],
)
def test_libssh_that_may_take_commands_for_passwords_is_refused(
    transport: str, query: str, is_taken: bool
) -> None:
    uri = f"qemu+{transport}://kvm1/system{query}"
    if is_taken:
        assert settings.load(None, {"libvirt.uri": uri}).hosts[0].uri == uri
        return
    with pytest.raises(SettingsError, match="as passwords: add sshauth=privkey") as caught:
        settings.load(None, {"libvirt.uri": uri})
    assert str(caught.value).startswith(f"--connect {uri!r}: ")


def test_ssh_asks_for_no_passwords_that_virsh_would_answer() -> None:
    assert settings.load(None, {"libvirt.uri": "qemu+ssh://kvm1/system"})


def test_backups_of_hosts_do_not_meet(file: Path) -> None:
    text = "[global]\nboot.backup_dir = '/b'\n"
    chosen = load(file, text)
    assert chosen.backups_of(chosen.hosts[0]) == Path("/b")
    chosen = load(file, f"{text}[/hosts/a.b]\nlibvirt.uri = 'kvm'\n")
    assert chosen.backups_of(chosen.hosts[0]) == Path("/b/a.b")


def test_each_virsh_is_there_once_with_a_host(file: Path) -> None:
    uris = [f"[/hosts/{name}]\nlibvirt.uri = 'test:///{name}'\n" for name in "abc"]
    chosen = load(file, f"{uris[0]}libvirt.virsh = 'v'\n{uris[1]}{uris[2]}libvirt.virsh = 'v'\n")
    assert {virsh: host.name for virsh, host in chosen.virshs.items()} == {"v": "a", "virsh": "b"}


@pytest.mark.parametrize("name", ["a", "0", "kvm-1.example.org", "a..b", "x" * 63])
def test_host_has_a_name_for_urls(file: Path, name: str) -> None:
    assert load(file, f"[/hosts/{name}] # b\nlibvirt.uri = 'kvm'\n").hosts[0].name == name


@pytest.mark.parametrize(
    "name", ["", "A", ".a", "-a", "a_b", "a b", "a/b", "a%2fb", "ä", "a ", "x" * 64, ".."]
)
def test_host_of_another_name_is_refused(file: Path, name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(file, f"[/hosts/{name}]\nlibvirt.uri = 'kvm'\n")
    assert f": there is no section [/hosts/{name}], only [global] and [/hosts/NAME]," in str(
        caught.value
    )


@pytest.mark.parametrize("section", ["Global", "GLOBAL", "/", "/service", "DEFAULT", "globals"])
def test_other_section_is_refused(file: Path, section: str) -> None:
    """Its settings would be ignored, and nobody would notice."""
    with pytest.raises(SettingsError) as caught:
        load(file, f"[{section}]\nserver.socket_port = 80\n")
    assert f"[{section}]" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("server.socket_port = 80\n", "line 1: 'server.socket_port = 80' stands before [global]"),
        ("[global]\nserver.socket_port\n", "line 2: 'server.socket_port' is not KEY = VALUE"),
        ("[global]\n\na: 80\nb: 1", "line 3: 'a: 80' is not KEY = VALUE"),
        (
            "[global]\nlog.level = 'info'\nlog.level = 'error'\n",
            "line 3: log.level is there already",
        ),
        ("[global]\n[global]\n", "line 2: [global] is there already"),
        ("[/hosts/a]\n[global]\n[/hosts/a]\n", "line 3: [/hosts/a] is there already"),
        (
            "[/hosts/a]\nlibvirt.uri = 'x'\nlibvirt.uri = 'x'\n",
            "line 3: libvirt.uri is there already",
        ),
        (
            "[global]\n[/hosts/a] libvirt.machines = ['x']\nlibvirt.uri = 'x'\n",
            "line 2: behind a section's name stand only comments",
        ),
        ("[global\n", "line 1: '[global' stands before [global]"),
        ("#" * (1 << 20) + "\n", "it is longer than 1048576 bytes"),
    ],
)
def test_file_of_another_form_is_refused(file: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(file, text)
    assert str(caught.value) == f"--config {str(file)!r}: {reason}"


def test_file_that_is_not_utf_8_is_refused(file: Path) -> None:
    file.write_bytes(b"[global]\nboot.backup_dir = '/\xfc'\n")
    with pytest.raises(SettingsError) as caught:
        settings.load(file, {})
    assert str(caught.value) == f"--config {str(file)!r}: line 2 is not UTF-8"


def test_mark_that_some_editors_put_first_does_no_harm(file: Path) -> None:
    file.write_text("[global]\nlog.level = 'error'\n", "utf-8-sig")
    assert settings.load(file, {}).log_level == "error"


def test_file_that_cannot_be_read_is_told_in_words(file: Path) -> None:
    def told_of() -> str:
        with pytest.raises(SettingsError) as caught:
            settings.load(file, {})
        return str(caught.value)

    assert told_of() == f"--config {str(file)!r}: No such file or directory"
    os.mkfifo(file)
    assert told_of() == f"--config {str(file)!r}: it is a pipe, and nothing comes from it"
    file.unlink()
    file.mkdir()
    assert told_of() == f"--config {str(file)!r}: Is a directory"


def test_settings_may_come_through_a_pipe() -> None:
    """And in their own time."""
    with subprocess.Popen(
        [sys.executable, PROGRAM, "--config=/dev/stdin", "--check-config"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        until(lambda: processes.state(process.pid) in "SZ", 60, "reading")
        _, said = process.communicate(b"[global]\nlog.level = 'loud'\n", 60)
    assert said.startswith(b"libvirt_mc: /dev/stdin: log.level = 'loud': must be one of ")


def test_command_line_wins(file: Path) -> None:
    file.write_text("[global]\nlibvirt.uri = 'test:///file'\nlog.level = 'debug'\n")
    chosen = settings.load(file, {"libvirt.uri": "test:///line"})
    assert (chosen.hosts[0].uri, chosen.log_level) == ("test:///line", "debug")


def test_command_line_does_not_save_a_file_that_is_wrong_elsewhere(file: Path) -> None:
    file.write_text("[global]\nlog.level = 1\n")
    with pytest.raises(SettingsError, match=r"libvirt_mc\.conf: log\.level = 1: "):
        settings.load(file, {"libvirt.uri": "test:///line"})


@pytest.mark.parametrize(("threads", "actions"), [(2, 1), (5, 4), (40, 32), (1000, 800)])
def test_some_threads_are_left_for_reading(threads: int, actions: int) -> None:
    assert Settings(thread_pool=threads).actions_at_once == actions


@pytest.mark.parametrize(
    ("level", "number"), [("debug", 10), ("info", 20), ("warning", 30), ("error", 40)]
)
def test_log_level_is_one_of_pythons(level: str, number: int) -> None:
    assert Settings(log_level=level).logging_level == number


def test_list_in_the_file_is_taken_and_cannot_change(file: Path) -> None:
    assert load(file, "[global]\nlibvirt.machines = ['lab-*', 'ci-1']\n").hosts == (
        HostSettings(machines=("lab-*", "ci-1")),
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "mc.example.org"])
def test_host_beyond_the_loopback_takes_users_or_an_explicit_word(host: str) -> None:
    with pytest.raises(SettingsError, match=r"--add-user NAME --users FILE.*auth\.anonymous"):
        settings.load(None, {"server.socket_host": host})
    for key, value in (("auth.users_file", "/etc/mc/users"), ("auth.anonymous", True)):
        assert settings.load(None, {"server.socket_host": host, key: value}).host == host


@pytest.mark.parametrize(
    ("key", "others"),
    [
        ("server.ssl_certificate", {"server.ssl_certificate": "/etc/mc/cert.pem"}),
        ("server.ssl_private_key", {"server.ssl_private_key": "/etc/mc/key.pem"}),
        ("auth.anonymous", {"auth.anonymous": True, "auth.users_file": "/etc/mc/users"}),
        ("auth.readers", {"auth.readers": ["monitor"]}),
    ],
)
def test_settings_that_do_not_go_together_are_refused(key: str, others: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(None, others)
    assert caught.value.key == key
