"""The settings: one typed, validated object, from a file and the command line."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, InitVar, dataclass, field, fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar

from mc import settings_file
from mc.errors import SettingsError

Check = Callable[[Any], str | None]
"""What is wrong with a value of the right type, or None."""


def _any(value: object) -> str | None:
    return None


def _between(least: float, most: float) -> Check:
    def check(value: float) -> str | None:
        return None if least <= value <= most else f"must be between {least:g} and {most:g}"

    return check


def _one_of(*allowed: str) -> Check:
    def check(value: str) -> str | None:
        return None if value in allowed else "must be one of " + ", ".join(map(repr, allowed))

    return check


def _names(value: tuple[str, ...]) -> str | None:
    return None if all(map(str.strip, value)) else "must be a list of texts that are not empty"


def _networks(value: tuple[str, ...]) -> str | None:
    try:
        for network in value:
            ip_network(network)
    except ValueError as error:
        return f"must be a list of addresses and networks, such as '10.0.0.0/8': {error}"
    return None


def _user_names(value: tuple[str, ...]) -> str | None:
    """By RFC 7616, section 3.4, a user name of Digest authentication holds no colon."""
    if any(":" in name or not name.isprintable() for name in value):
        return "must be a list of user names, which hold no colon"
    return _names(value)


def _filled(value: str) -> str | None:
    return None if value.strip() and value.isprintable() else "must be printable text"


def _uri(value: str) -> str | None:
    """A libvirt URI (https://libvirt.org/uri.html) or an alias from libvirt.conf."""
    if re.fullmatch(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?:[!-~]+|[\w-]+", value, re.ASCII | re.I):
        return None
    return "must be a libvirt URI such as 'qemu:///system'"


def _absolute(value: str) -> str | None:
    if Path(value).is_absolute() and "\0" not in value:
        return None
    return "must be an absolute path"


def _absolute_or_none(value: str) -> str | None:
    return _absolute(value) if value else None


def _host(value: str) -> str | None:
    """A name or an address; the system tells whether it is one of this host's."""
    labels = value.split(".")
    if re.fullmatch(r"[a-z0-9_.:%-]+", value, re.ASCII | re.I) and max(map(len, labels)) < 64:
        return None
    return "must be a host name or an IP address"


def _shutdown_mode(value: str) -> str | None:
    modes = {"acpi", "agent", "initctl", "signal", "paravirt"}
    if not value or set(value.split(",")) <= modes:
        return None
    return "must be empty or a list of virsh's shutdown modes: " + ", ".join(sorted(modes))


def _setting(key: str, default: object, check: Check, option: str = "") -> Any:
    return field(default=default, metadata={"key": key, "check": check, "option": option or key})


@dataclass(frozen=True)
class Origin:
    """Where settings were given: the options on the command line, by key; the keys in the file."""

    options: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    in_file: frozenset[str] = frozenset()

    def label(self, key: str) -> str:
        """How whoever gave a setting calls it."""
        if key in self.options:
            return self.options[key]
        return f"{self.file}: {key}" if key in self.in_file else key


@dataclass(frozen=True)
class Settings:
    """Every setting with its default; the key that names it in the file is in its metadata.

    Durations are in seconds, sizes in bytes. Raises `SettingsError` for an impossible value.
    """

    host: str = _setting("server.socket_host", "127.0.0.1", _host, "--listen")
    port: int = _setting("server.socket_port", 9001, _between(0, 65535), "--listen")
    thread_pool: int = _setting("server.thread_pool", 64, _between(2, 1000))
    socket_queue_size: int = _setting("server.socket_queue_size", 128, _between(1, 65535))
    socket_timeout: float = _setting("server.socket_timeout", 10.0, _between(1, 3600))
    max_connections: int = _setting("server.max_connections", 512, _between(8, 65535))
    max_header: int = _setting("server.max_request_header_size", 8192, _between(1024, 1 << 20))
    max_body: int = _setting("server.max_request_body_size", 65536, _between(1024, 1 << 20))
    certificate: str = _setting("server.ssl_certificate", "", _absolute_or_none, "--tls-cert")
    private_key: str = _setting("server.ssl_private_key", "", _absolute_or_none, "--tls-key")
    names: tuple[str, ...] = _setting("server.names", (), _names)
    trusted_proxies: tuple[str, ...] = _setting("server.trusted_proxies", (), _networks)
    users_file: str = _setting("auth.users_file", "", _absolute_or_none, "--users")
    readers: tuple[str, ...] = _setting("auth.readers", (), _user_names)
    anonymous: bool = _setting("auth.anonymous", False, _any)
    log_level: str = _setting(
        "log.level", "info", _one_of("debug", "info", "warning", "error"), "--log-level"
    )
    uri: str = _setting("libvirt.uri", "qemu:///system", _uri, "--connect")
    virsh: str = _setting("libvirt.virsh", "virsh", _filled)
    machines: tuple[str, ...] = _setting("libvirt.machines", (), _names)
    read_sessions: int = _setting("libvirt.read_sessions", 4, _between(1, 64))
    action_sessions: int = _setting("libvirt.action_sessions", 2, _between(1, 64))
    read_seconds: float = _setting("libvirt.read_seconds", 5.0, _between(0.1, 600))
    action_seconds: float = _setting("libvirt.action_seconds", 60.0, _between(0.1, 3600))
    shutdown_mode: str = _setting("libvirt.shutdown_mode", "", _shutdown_mode)
    state_words: str = _setting("service.state_words", "libvirt", _one_of("libvirt", "power"))
    turn_seconds: float = _setting("service.turn_seconds", 30.0, _between(0, 3600))
    event_streams: int = _setting("service.event_streams", 16, _between(0, 1000))
    backup_dir: str = _setting(
        "boot.backup_dir", "/var/lib/libvirt_mc/backups", _absolute, "--backup-dir"
    )
    backups_kept: int = _setting("boot.backups_kept", 20, _between(1, 100000))
    grace_seconds: float = _setting("boot.grace_seconds", 15.0, _between(0, 600))
    origin: InitVar[Origin | None] = None
    # Not a setting, and so not a field.
    _origin: ClassVar[Origin] = Origin()

    def __post_init__(self, origin: Origin | None) -> None:
        object.__setattr__(self, "_origin", origin or Origin())
        for one in fields(self):
            value = getattr(self, one.name)
            if not _is_a(one, value):
                raise self._error(key_of(one), value, f"must be {_KINDS[one.type]}")
            complaint = one.metadata["check"](value)
            if complaint:
                raise self._error(key_of(one), value, complaint)
        self._check_together()

    def label(self, key: str) -> str:
        """How whoever gave a setting calls it: by its option, or by its key and the file."""
        return self._origin.label(key)

    def _error(self, key: str, value: object, reason: str) -> SettingsError:
        return SettingsError(key, value, reason, self.label(key))

    def _check_together(self) -> None:
        if self.certificate and not self.private_key:
            reason = "its private key is needed, too: --tls-key or server.ssl_private_key"
            raise self._error("server.ssl_certificate", self.certificate, reason)
        if self.private_key and not self.certificate:
            reason = "its certificate is needed, too: --tls-cert or server.ssl_certificate"
            raise self._error("server.ssl_private_key", self.private_key, reason)
        if self.anonymous and self.users_file:
            reason = f"{self.label('auth.users_file')} says the opposite"
            raise self._error("auth.anonymous", True, reason)
        if self.readers and not self.users_file:
            reason = "accounts are needed, too: --users or auth.users_file"
            raise self._error("auth.readers", self.readers, reason)
        if not (self.users_file or self.anonymous or _is_loopback(self.host)):
            raise self._error(
                "server.socket_host",
                self.host,
                "anybody who reaches it could switch machines off: make an account "
                "(libvirt_mc.py --add-user NAME --users FILE) and serve with --users FILE, listen "
                "on 127.0.0.1, or set auth.anonymous = True",
            )

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
    def backups(self) -> Path:
        return Path(self.backup_dir)


def _is_loopback(host: str) -> bool:
    """Whether a host is this one alone; any name but `localhost` may be or become another."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def key_of(one: Field[Any]) -> str:
    """The key that names a setting in the file."""
    key: str = one.metadata["key"]
    return key


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
    values = in_file | dict(overrides)
    known = {key_of(one): one for one in fields(Settings)}
    options = {key: known[key].metadata["option"] for key in overrides if key in known}
    origin = Origin(options, str(path), frozenset(in_file))
    for key, value in values.items():
        if key not in known:
            raise SettingsError(key, value, "there is no such setting", origin.label(key))
    given = {known[key].name: _frozen(known[key], value) for key, value in values.items()}
    return Settings(**given, origin=origin)  # type: ignore[arg-type]


def _frozen(one: Field[Any], value: object) -> object:
    """A list becomes a tuple where a tuple is wanted: settings do not change."""
    return tuple(value) if one.type == tuple[str, ...] and isinstance(value, list) else value
