"""A controller of many hosts, each of which is an embedded hypervisor, and a proxy before it."""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tests.daemon import Daemon
from tests.hypervisor import DEVICES, hypervisor, uuid_of
from tests.lab import until
from tests.ports import reserved_port

PREFIX = "/mc"
"""What the proxy takes off each path."""

_PATIENCE = 30.0
_NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
_CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location {prefix}/ {{
            proxy_pass http://127.0.0.1:{daemon}/;
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""

Machines = Mapping[str, Sequence[tuple[str, str]]]
"""Names and states of the machines of each host."""


def uuid_on(host: int, number: int) -> str:
    """The UUID of a machine, by the number of its host and its own one there, from 0."""
    return uuid_of(number).replace("6d63", f"6d6{host}", 1)


@contextmanager
def many_hosts(
    folder: Path, machines: Machines, *arguments: str, one_uuid: bool = False, down: str = ""
) -> Iterator[Daemon]:
    """A daemon with these hosts, and one more that is down for ever if it is named.

    With `one_uuid`, machines of one number are of one UUID, whatever the host; else none are.
    """
    # On a loaded machine an embedded hypervisor takes its time, too.
    patience = f"libvirt.list_seconds = {_PATIENCE}\nlibvirt.read_seconds = {_PATIENCE}\n"
    sections = [f"[global]\nboot.backup_dir = '{folder}/backups'\n{patience}"]
    for host, (name, found) in enumerate(machines.items()):
        file = folder / f"{name}.xml"
        uri = hypervisor(file, found, DEVICES)
        if not one_uuid:
            file.write_text(file.read_text("utf-8").replace("6d63", f"6d6{host}"), "utf-8")
        sections.append(f"[/hosts/{name}]\nlibvirt.uri = '{uri}'\n")
    if down:
        # libvirt refuses what is no XML.
        (folder / "down.xml").write_text("<node>")
        sections.append(f"[/hosts/{down}]\nlibvirt.uri = 'test://{folder}/down.xml'\n")
    (folder / "hosts.conf").write_text("".join(sections))
    with Daemon("--config", str(folder / "hosts.conf"), *arguments) as daemon:
        known = [f"host {name} is up" for name in machines] + ["cannot be reached"] * bool(down)
        until(daemon.log, _PATIENCE, "hosts", lambda log: all(words in log for words in known))
        yield daemon


@contextmanager
def proxy(folder: Path, daemon: Daemon) -> Iterator[int]:
    """The port of an nginx that has the controller below `PREFIX`, and nothing else."""
    assert _NGINX
    with reserved_port() as port:
        configuration = _CONFIGURATION.format(
            folder=folder, port=port, daemon=daemon.port, prefix=PREFIX
        )
        (folder / "nginx.conf").write_text(configuration)
        command = [_NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as nginx:
            try:
                until(lambda: _is_open(port), _PATIENCE, "nginx")
                yield port
            finally:
                nginx.terminate()


def _is_open(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
