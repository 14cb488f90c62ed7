"""What happened so far and how things stand, for Prometheus.

Names and units are by its conventions (https://prometheus.io/docs/practices/naming/). Labels take
few values: hosts are in the settings, and none is a machine's name or anything else that a client
chooses.
"""

from collections import Counter as Count
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mc import __version__
from mc.hosts.directory import Hosts
from mc.hosts.host import Host
from mc.machine.machines import STATES
from mc.monitoring.health import Folder

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format, which every version of Prometheus reads."""

# Seconds: a healthy read takes half a millisecond, cutting the power of a QEMU that hangs 26 s.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts what it is told, and reads the rest when it is asked."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "libvirt_mc_requests",
            "HTTP requests answered.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._actions = Counter(
            "libvirt_mc_actions",
            "Actions on machines; the outcome is changed, unchanged, or the kind of error.",
            ["verb", "outcome"],
            registry=registry,
        )
        self._commands = Histogram(
            "libvirt_mc_virsh_command_seconds",
            "What virsh commands took, those that failed included.",
            ["command"],
            buckets=_BUCKETS,
            registry=registry,
        )
        # The library takes as long to find the few label values there are as to count by them.
        self._of_requests = cache(self._requests.labels)
        self._of_commands = cache(self._commands.labels)
        self._by_host: dict[str | None, CollectorRegistry] = {None: registry}
        Info("libvirt_mc_build", "The version that runs.", registry=registry).info(
            {"version": __version__}
        )

    def request(self, route: str, method: str, status: int) -> None:
        """Count a request; `route` is the template of its URL."""
        self._of_requests(route, method, status).inc()

    def action(self, verb: str, outcome: str) -> None:
        self._actions.labels(verb, outcome).inc()

    def command(self, command: str, seconds: float) -> None:
        self._of_commands(command).observe(seconds)

    def watch(self, hosts: Hosts, folders: Mapping[str, Folder]) -> None:
        """Tell of these as well from now on; the folders are those for backups, by host."""
        for host in (None, *(host.name for host in hosts.all)):
            registry = CollectorRegistry() if host else self._registry
            registry.register(_Present(hosts, host, folders))
            self._by_host[host] = registry

    def text(self, host: str | None = None) -> bytes:
        """Everything, or what there is of one host alone, in Prometheus' text format.

        The hosts are asked for the machines' states.
        """
        return generate_latest(self._by_host[host])


class _Present(Collector):
    """How things stand with a host, or with all, at the moment of asking."""

    def __init__(self, hosts: Hosts, host: str | None, folders: Mapping[str, Folder]) -> None:
        self._hosts = hosts
        self._host = host
        self._folders = folders

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "libvirt_up", "Whether libvirt told the states of its machines.", labels=["host"]
        )
        machines = GaugeMetricFamily("libvirt_mc_machines", "Machines.", labels=["host", "state"])
        writable = GaugeMetricFamily(
            "libvirt_mc_backups_writable",
            "Whether the backup folder can be written; while it cannot, no boot order is set.",
            labels=["host"],
        )
        lists = self._hosts.lists(self._host)
        hosts = self._hosts.of(self._host)
        for host in hosts:
            listed = lists.machines.get(host.name)
            up.add_metric([host.name], listed is not None)
            writable.add_metric([host.name], self._folders[host.name].writable())
            if listed is not None:
                states = Count(machine.state for machine in listed)
                for state in STATES:
                    machines.add_metric([host.name, state], states[state])
        yield from (machines, up, writable)
        yield from self._sessions(hosts)

    def _sessions(self, hosts: Sequence[Host]) -> Iterator[Metric]:
        labels = ["host", "pool"]
        open_now = GaugeMetricFamily(
            "libvirt_mc_sessions_open", "virsh sessions that are open.", labels=labels
        )
        started = CounterMetricFamily(
            "libvirt_mc_sessions_started", "virsh sessions started.", labels=labels
        )
        lost = CounterMetricFamily(
            "libvirt_mc_sessions_lost",
            "virsh sessions that ended, lost libvirt or missed a deadline.",
            labels=labels,
        )
        for host in hosts:
            for pool, counts in host.virsh.sessions().items():
                open_now.add_metric([host.name, pool], counts.open)
                started.add_metric([host.name, pool], counts.started)
                lost.add_metric([host.name, pool], counts.lost)
        yield from (open_now, started, lost)
