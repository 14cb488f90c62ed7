"""Several hosts, each with a libvirt of its own, in a network that can be cut."""

import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlencode

from tests.lab import processes
from tests.lab.laboratory import Laboratory
from tests.lab.namespace import Namespace, ip
from tests.lab.service import User, is_root
from tests.lab.sshd import Sshd
from tests.lab.waiting import until

Transport = Literal["unix", "tcp", "tls", "ssh"]

DOMAIN = "example"
USER = "mc"
"""Who may log in to a host by ssh."""

LINK = "lab"
"""The interface that we have ourselves: this and the number of the network."""

NETWORKS = 512
"""How many networks there may be at once: 198.18.0.0/15 (RFC 2544) in parts of 256 addresses."""

LISTENING = 'listen_tcp = 1\nauth_tcp = "none"\n'
NO_TLS = "listen_tls = 0\n"
TLS = """\
listen_tls = 1
ca_file = "{0}/cacert.pem"
cert_file = "{0}/servercert.pem"
key_file = "{0}/serverkey.pem"
"""
PKI = ("cacert.pem", "servercert.pem", "serverkey.pem")

ENTER = """\
#!/bin/sh
export HOME={home}
exec nsenter --target={pid} --mount --wd="$PWD" -- {program} "$@"
"""


class Network:
    """A router, and hosts behind it; `with` or `close` leaves nothing of it. It takes root.

    Who shall reach the hosts by name, or by the client's ssh, runs below `python`, which is this
    Python, or below `shell`. They are root, but at home in `home`.
    """

    def __init__(self) -> None:
        assert is_root(), "network namespaces take root"
        self._hosts: dict[str, Host] = {}
        with ExitStack() as cleanup:
            self.folder = Path(tempfile.mkdtemp(prefix="net-", dir="/tmp"))
            self.folder.chmod(0o755)
            cleanup.callback(shutil.rmtree, self.folder)
            self.router = Namespace()
            cleanup.callback(self.router.close)
            self._number = self._lay_cable()
            self.link = f"{LINK}{self._number}"
            # It goes with the router, but not at once.
            cleanup.callback(ip, f"link del {self.link}")
            self._join()
            self._client = Namespace(network=False)
            cleanup.callback(self._client.close)
            self._furnish()
            self._cleanup = cleanup.pop_all()
        self.python = self._entrance("python", sys.executable)
        self.shell = self._entrance("sh", "/bin/sh")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all hosts and remove all files; harmless twice."""
        self._cleanup.close()

    def host(self, name: str, *, pki: Path | None = None, settings: str = "") -> "Host":
        """A new host `NAME.example`, with libvirtd and sshd running.

        pki: a folder with cacert.pem, servercert.pem and serverkey.pem; without it there is no tls.
        settings: further lines of libvirtd.conf.
        """
        host = Host(self, name, 4 * (len(self._hosts) + 1), pki, settings)
        self._cleanup.callback(host.close)
        self._hosts[name] = host
        return host

    def name(self, name: str, address: str) -> None:
        """Have the client find an address under one more name."""
        with (self.folder / "hosts").open("a") as hosts:
            hosts.write(f"{address} {name}\n")

    def address(self, number: int) -> str:
        """One of the 256 addresses that the network has."""
        return f"198.{18 + self._number // 256}.{self._number % 256}.{number}"

    def _join(self) -> None:
        """Have the router and us reach one another."""
        near, far = self.address(1), self.address(2)
        # What no host has is a black hole.
        self.router.ip(
            f"address add {far}/30 dev client",
            "link set client up",
            f"route add blackhole {self.address(0)}/24",
        )
        self.router.run("tee", "/proc/sys/net/ipv4/ip_forward", given="1")
        ip(
            f"address add {near}/30 dev {self.link}",
            f"link set {self.link} up",
            f"route add {self.address(0)}/24 via {far}",
        )

    def _lay_cable(self) -> int:
        """From here to the router; the number of the network, which no other one has."""
        for number in range(NETWORKS):
            try:
                ip(f"link add {LINK}{number} type veth peer name client netns {self.router.pid}")
            except AssertionError as error:
                if "File exists" not in str(error):
                    raise
            else:
                return number
        raise AssertionError(f"{NETWORKS} networks are there already")

    def _furnish(self) -> None:
        """Files that the client has in place of the system's."""
        self.home = self.folder / "client"
        self.home.mkdir(mode=0o700)
        files = {
            "passwd": f"root:x:0:0::{self.home}:/bin/sh\n",
            "hosts": "127.0.0.1 localhost\n",
            # It knows nobody.
            "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
            self._client.show(self.folder / name, f"/etc/{name}")

    def _entrance(self, name: str, program: str) -> str:
        """A program that is run as the client."""
        path = self.folder / name
        path.write_text(ENTER.format(home=self.home, pid=self._client.pid, program=program))
        path.chmod(0o755)
        return str(path)


class Host:
    """A host of a network: its libvirtd with machines of its own, its sshd, and its cable.

    lab: see Laboratory. sshd: see Sshd. name: as the client finds it, `kvm1.example`.
    """

    def __init__(
        self, network: Network, name: str, number: int, pki: Path | None, settings: str
    ) -> None:
        self.name = f"{name}.{DOMAIN}"
        self.address = network.address(number + 2)
        self._router = network.router
        self._user = User.unprivileged()
        self._folder = network.folder / name
        self._folder.mkdir()
        self._user.own(self._folder)
        self._home = self._folder / "home"
        with ExitStack() as cleanup:
            self._namespace = namespace = Namespace()
            cleanup.callback(namespace.close)
            self._connect(namespace, f"cable{number}", network.address(number + 1))
            namespace.show(self._passwd(), "/etc/passwd")
            tls = NO_TLS if pki is None else self._certified(pki)
            self.lab = Laboratory(LISTENING + tls + settings, namespace.within)
            cleanup.callback(self.lab.close)
            self.sshd = Sshd(
                self._home,
                self._user,
                runtime=self.lab.folder / "run",
                address=self.address,
                within=namespace.within,
            )
            cleanup.callback(self.sshd.close)
            self.sshd.start()
            self._cleanup = cleanup.pop_all()
        network.name(self.name, self.address)

    def uri(self, transport: Transport, **parameters: str) -> str:
        """The URI that reaches its libvirt from the client, with such parameters."""
        if transport == "unix":
            return self.lab.uri
        user = f"{USER}@" if transport == "ssh" else ""
        query = f"?{urlencode(parameters, safe='/')}" if parameters else ""
        return f"qemu+{transport}://{user}{self.name}/session{query}"

    def cut(self) -> None:
        """Have the router drop what comes from the host and what goes there; nobody is told."""
        self._router.ip(*(f"rule add {way} {self.address} blackhole" for way in ("from", "to")))

    def mend(self) -> None:
        """End the cut."""
        self._router.ip(*(f"rule del {way} {self.address} blackhole" for way in ("from", "to")))

    def freeze(self) -> None:
        """Stop all that runs on the host (SIGSTOP); its kernel still takes connections."""

        def stop() -> set[str]:
            for pid in self._running():
                # One that has ended meanwhile needs none.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            return {processes.state(pid) for pid in self._running()}

        until(stop, 10, f"stop of {self.name}", lambda letters: letters <= {"T", ""})

    def thaw(self) -> None:
        """Let it all run on (SIGCONT)."""
        for pid in self._running():
            with suppress(ProcessLookupError):
                processes.thaw(pid)

    def lose_power(self) -> None:
        """End all that runs there (SIGKILL), machines too, while it is cut off: nobody is told."""
        self.cut()
        for service in (self.lab.libvirtd, self.sshd):
            service.kill_all()

    def regain_power(self) -> None:
        """Start libvirtd and sshd again, which know nothing of who was connected."""
        self.lab.libvirtd.start()
        # The kernel has not lost power: it must have given up what it still had to say.
        until(
            self._connections, 60, f"end of all connections of {self.name}", lambda left: not left
        )
        self.mend()
        self.sshd.start()

    def close(self) -> None:
        """End all that runs on the host."""
        self._cleanup.close()

    def _connections(self) -> str:
        return self._namespace.run("ss", "--no-header", "--tcp", "state", "connected")

    def _running(self) -> list[int]:
        return [*self.lab.libvirtd.running(), *self.sshd.running()]

    def _connect(self, namespace: Namespace, cable: str, router: str) -> None:
        """Lay a cable from the router, whose address at that end is given, to the host."""
        self._router.ip(
            f"link add {cable} type veth peer name router netns {namespace.pid}",
            f"address add {router}/30 dev {cable}",
            f"link set {cable} up",
        )
        namespace.ip(
            f"address add {self.address}/30 dev router",
            "link set router up",
            f"route add default via {router}",
        )
        # sshd's port, for a user who is not root; and an end, after 3 s, to sockets of nobody.
        namespace.run("tee", "/proc/sys/net/ipv4/ip_unprivileged_port_start", given="0")
        namespace.run("tee", "/proc/sys/net/ipv4/tcp_orphan_retries", given="3")

    def _passwd(self) -> Path:
        """The host's users: the laboratory's may log in."""
        file = self._folder / "passwd"
        mc = f"{USER}:x:{self._user.uid}:{self._user.gid}::{self._home}:/bin/sh"
        file.write_text(f"root:x:0:0::/root:/bin/sh\n{mc}\n")
        return file

    def _certified(self, pki: Path) -> str:
        """What libvirtd.conf says on the host's certificate, of which libvirtd gets a copy."""
        for name in PKI:
            shutil.copyfile(pki / name, self._folder / name)
            (self._folder / name).chmod(0o600)
            self._user.own(self._folder / name)
        return TLS.format(self._folder)
