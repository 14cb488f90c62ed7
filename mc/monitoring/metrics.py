"""What happened so far and how things stand, for Prometheus.

Names and units are by its conventions (https://prometheus.io/docs/practices/naming/). Labels take
few values: none is a machine's name or anything else that a client chooses.
"""

from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mc import __version__
from mc.errors import ControllerError
from mc.machine.machines import Machines
from mc.virsh import Virsh

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

    def watch(self, virsh: Virsh, machines: Machines, writable: Callable[[], bool]) -> None:
        """Tell of these as well from now on; `writable` says whether backups could be written."""
        self._registry.register(_Present(virsh, machines, writable))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format; libvirt is asked for the machines' states."""
        return generate_latest(self._registry)


class _Present(Collector):
    """How things stand at the moment of asking."""

    def __init__(self, virsh: Virsh, machines: Machines, writable: Callable[[], bool]) -> None:
        self._virsh = virsh
        self._machines = machines
        self._writable = writable

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("libvirt_up", "Whether libvirt told the states of its machines.")
        try:
            states = self._machines.count()
        except ControllerError:
            up.add_metric([], 0)
        else:
            up.add_metric([], 1)
            machines = GaugeMetricFamily("libvirt_mc_machines", "Machines.", labels=["state"])
            for state, number in states.items():
                machines.add_metric([state], number)
            yield machines
        yield up
        yield GaugeMetricFamily(
            "libvirt_mc_backups_writable",
            "Whether the backup folder can be written; while it cannot, no boot order is set.",
            value=self._writable(),
        )
        yield from self._sessions()

    def _sessions(self) -> Iterator[Metric]:
        open_now = GaugeMetricFamily(
            "libvirt_mc_sessions_open", "virsh sessions that are open.", labels=["pool"]
        )
        started = CounterMetricFamily(
            "libvirt_mc_sessions_started", "virsh sessions started.", labels=["pool"]
        )
        lost = CounterMetricFamily(
            "libvirt_mc_sessions_lost",
            "virsh sessions that ended, lost libvirt or missed a deadline.",
            labels=["pool"],
        )
        for pool, counts in self._virsh.sessions().items():
            open_now.add_metric([pool], counts.open)
            started.add_metric([pool], counts.started)
            lost.add_metric([pool], counts.lost)
        yield from (open_now, started, lost)
