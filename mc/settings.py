"""The settings: one typed, validated object, from a file and the command line.

What is about one libvirt is in `HostSettings`, once for each; `[global]` has what all share.
"""

import logging
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mc import libvirt_uri, settings_file
from mc import settings_values as must
from mc.errors import SettingsError

LOCAL = "local"
"""The name of the one host where the settings give none a name."""

Labels = Mapping[tuple[str, str], str]
"""What whoever gave a setting calls it, by host and key; the host is "" for all of them."""


def _setting(key: str, default: object, check: must.Check, option: str = "") -> Any:
    return field(default=default, metadata={"key": key, "check": check, "option": option or key})


@dataclass(frozen=True)
class HostSettings:
    """What is set about one libvirt; see `Settings`."""

    name: str = LOCAL
    uri: str = _setting("libvirt.uri", "qemu:///system", must.libvirt_uri, "--connect")
    virsh: str = _setting("libvirt.virsh", "virsh", must.filled)
    machines: tuple[str, ...] = _setting("libvirt.machines", (), must.names)
    read_sessions: int = _setting("libvirt.read_sessions", 4, must.between(1, 64))
    action_sessions: int = _setting("libvirt.action_sessions", 2, must.between(1, 64))
    read_seconds: float = _setting("libvirt.read_seconds", 5.0, must.between(0.1, 600))
    action_seconds: float = _setting("libvirt.action_seconds", 60.0, must.between(0.1, 3600))
    shutdown_mode: str = _setting("libvirt.shutdown_mode", "", must.shutdown_mode)


@dataclass(frozen=True)
class Settings:
    """Every other setting with its default; the key that names it in the file is in its metadata.

    Durations are in seconds, sizes in bytes.
    """

    host: str = _setting("server.socket_host", "127.0.0.1", must.host, "--listen")
    port: int = _setting("server.socket_port", 9001, must.between(0, 65535), "--listen")
    thread_pool: int = _setting("server.thread_pool", 64, must.between(2, 1000))
    socket_queue_size: int = _setting("server.socket_queue_size", 128, must.between(1, 65535))
    socket_timeout: float = _setting("server.socket_timeout", 10.0, must.between(1, 3600))
    max_connections: int = _setting("server.max_connections", 512, must.between(8, 65535))
    max_header: int = _setting("server.max_request_header_size", 8192, must.between(1024, 1 << 20))
    max_body: int = _setting("server.max_request_body_size", 65536, must.between(1024, 1 << 20))
    certificate: str = _setting("server.ssl_certificate", "", must.absolute_or_none, "--tls-cert")
    private_key: str = _setting("server.ssl_private_key", "", must.absolute_or_none, "--tls-key")
    names: tuple[str, ...] = _setting("server.names", (), must.names)
    trusted_proxies: tuple[str, ...] = _setting("server.trusted_proxies", (), must.networks)
    users_file: str = _setting("auth.users_file", "", must.absolute_or_none, "--users")
    readers: tuple[str, ...] = _setting("auth.readers", (), must.user_names)
    anonymous: bool = _setting("auth.anonymous", False, must.anything)
    log_level: str = _setting(
        "log.level", "info", must.one_of("debug", "info", "warning", "error"), "--log-level"
    )
    list_seconds: float = _setting("libvirt.list_seconds", 1.0, must.between(0.1, 60))
    state_words: str = _setting("service.state_words", "libvirt", must.one_of("libvirt", "power"))
    turn_seconds: float = _setting("service.turn_seconds", 30.0, must.between(0, 3600))
    event_streams: int = _setting("service.event_streams", 16, must.between(0, 1000))
    backup_dir: str = _setting(
        "boot.backup_dir", "/var/lib/libvirt_mc/backups", must.absolute, "--backup-dir"
    )
    backups_kept: int = _setting("boot.backups_kept", 20, must.between(1, 100000))
    grace_seconds: float = _setting("boot.grace_seconds", 15.0, must.between(0, 600))
    hosts: tuple[HostSettings, ...] = (HostSettings(),)
    """At least one, in the order of the file."""
    labels: Labels = field(default_factory=dict, compare=False, repr=False)

    def label(self, key: str, host: str | None = None) -> str:
        """How whoever gave a setting calls it: by its option, or by file, section and key.

        `host` is the name of the host that it is about, if it is about one.
        """
        return _label(self.labels, key, host or "")

    @property
    def logging_level(self) -> int:
        return logging.getLevelNamesMapping()[self.log_level.upper()]

    @property
    def authentication(self) -> tuple[str, ...]:
        """The HTTP schemes by which a user is known; none if none is needed."""
        if not self.users_file:
            return ()
        over_tls = self.certificate or self.trusted_proxies
        return ("digest", "basic") if over_tls else ("digest",)

    @property
    def actions_at_once(self) -> int:
        """How many actions may be under way: a fifth of the threads is left for reading."""
        return max(1, self.thread_pool * 4 // 5)

    @property
    def pictures_at_once(self) -> int:
        """How many pictures of screens may be under way: they leave threads to other reads."""
        return max(1, self.thread_pool // 10)

    @property
    def probes_at_once(self) -> int:
        """How many health checks may wait for libvirt: no user is needed to ask for one."""
        return max(1, self.thread_pool // 10)

    @property
    def virshs(self) -> dict[str, HostSettings]:
        """Each virsh binary, with the first host that it is for."""
        first: dict[str, HostSettings] = {}
        for host in self.hosts:
            first.setdefault(host.virsh, host)
        return first

    def backups_of(self, host: HostSettings) -> Path:
        """The folder for a host's backups: machines of two hosts may have the same name."""
        folder = Path(self.backup_dir)
        return folder if host.name == LOCAL else folder / host.name


def _keys(kind: type[Settings | HostSettings]) -> dict[str, Field[Any]]:
    return {one.metadata["key"]: one for one in fields(kind) if "key" in one.metadata}


OF_HOST = _keys(HostSettings)
SETTINGS = _keys(Settings) | OF_HOST
"""Every setting, by the key that names it in the file."""

# What a value of each type is called: they are Python's literals, but not all users know Python.
_KINDS: Mapping[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text, in quotes",
    tuple[str, ...]: "a list of texts",
}


def _is_a(one: Field[Any], value: object) -> bool:
    """An int serves as a float; a bool, though an int to Python, is neither."""
    if isinstance(value, bool):
        return one.type is bool
    if one.type == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    return isinstance(value, (int, float) if one.type is float else one.type)  # type: ignore[arg-type]


def load(path: Path | None, overrides: Mapping[str, object]) -> Settings:
    """Settings from a file, if there is one, and from the command line, which wins.

    `overrides` are by key. Raises `SettingsError` for an unknown key, a wrong type or an
    impossible value, and if the file cannot be read.
    """
    in_file = settings_file.read(path) if path else {}
    labels = {
        (host, key): settings_file.label(path, key, host)
        for host, values in in_file.items()
        for key in values
    }
    labels |= {("", key): SETTINGS[key].metadata["option"] for key in overrides if key in SETTINGS}
    shared = in_file.pop("", {}) | dict(overrides)
    values = _valid(shared, labels)
    defaults = HostSettings(**{key: values.pop(key) for key in _names(OF_HOST) & values.keys()})
    if in_file and "libvirt.uri" in shared:
        reason = "there are sections [/hosts/...], and each of them has its own: leave this one out"
        raise _error(labels, "libvirt.uri", defaults.uri, reason)
    hosts = []
    for host, own in in_file.items():
        if "libvirt.uri" not in own:
            reason = f"[/hosts/{host}] has no libvirt.uri, which each host needs"
            raise SettingsError("--config", str(path), reason, "--config")
        hosts.append(replace(defaults, name=host, **_valid(own, labels, host)))
    chosen = Settings(**values, hosts=tuple(hosts) or (defaults,), labels=labels)
    _check_together(chosen)
    return chosen


def _label(labels: Labels, key: str, host: str = "") -> str:
    return labels.get((host, key)) or labels.get(("", key), key)


def _error(labels: Labels, key: str, value: object, reason: str, host: str = "") -> SettingsError:
    return SettingsError(key, value, reason, _label(labels, key, host))


def _names(settings: Mapping[str, Field[Any]]) -> set[str]:
    return {one.name for one in settings.values()}


def _valid(given: Mapping[str, object], labels: Labels, host: str = "") -> dict[str, Any]:
    """The values of one section by the names of their attributes."""
    values = {}
    for key, literal in given.items():
        # Settings do not change, but lists would.
        value = tuple(literal) if isinstance(literal, list) else literal
        complaint = _complaint(key, value, host)
        if complaint:
            raise _error(labels, key, literal, complaint, host)
        values[SETTINGS[key].name] = value
    return values


def _complaint(key: str, value: object, host: str) -> str | None:
    if key not in SETTINGS:
        return "there is no such setting"
    if host and key not in OF_HOST:
        return "it is not about one host: it belongs into [global]"
    one = SETTINGS[key]
    if not _is_a(one, value):
        return f"must be {_KINDS[one.type]}"
    complaint: str | None = one.metadata["check"](value)
    return complaint


def _check_together(chosen: Settings) -> None:
    """Raise `SettingsError` for what is possible by itself, but not with the other settings."""

    def error(key: str, value: object, reason: str, host: str = "") -> SettingsError:
        return _error(chosen.labels, key, value, reason, host)

    if chosen.certificate and not chosen.private_key:
        reason = "its private key is needed, too: --tls-key or server.ssl_private_key"
        raise error("server.ssl_certificate", chosen.certificate, reason)
    if chosen.private_key and not chosen.certificate:
        reason = "its certificate is needed, too: --tls-cert or server.ssl_certificate"
        raise error("server.ssl_private_key", chosen.private_key, reason)
    if chosen.anonymous and chosen.users_file:
        reason = f"{chosen.label('auth.users_file')} says the opposite"
        raise error("auth.anonymous", True, reason)
    if chosen.readers and not chosen.users_file:
        reason = "accounts are needed, too: --users or auth.users_file"
        raise error("auth.readers", chosen.readers, reason)
    if not (chosen.users_file or chosen.anonymous or must.is_loopback(chosen.host)):
        raise error(
            "server.socket_host",
            chosen.host,
            "anybody who reaches it could switch machines off: make an account "
            "(libvirt_mc.py --add-user NAME --users FILE) and serve with --users FILE, listen "
            "on 127.0.0.1, or set auth.anonymous = True",
        )
    seen: dict[object, str] = {}
    for host in chosen.hosts:
        complaint = libvirt_uri.complaint(host.uri)
        if complaint:
            raise error("libvirt.uri", host.uri, complaint, host.name)
        first = seen.setdefault(libvirt_uri.identity(host.uri), host.name)
        if first != host.name:
            reason = f"it is the libvirt of [/hosts/{first}] already"
            raise error("libvirt.uri", host.uri, reason, host.name)
