"""The daemon, put together from its parts."""

import logging
import resource
from contextlib import ExitStack
from pathlib import Path

from mc.boot.backup import Backups
from mc.checks import check_virshs, warn_at_start
from mc.errors import words
from mc.hosts.directory import Hosts
from mc.hosts.host import Host, Shared
from mc.hosts.index import Index
from mc.hosts.link import Pace
from mc.hosts.shares import Shares
from mc.machine.turns import Places, Turns
from mc.monitoring.health import Folder, Health
from mc.monitoring.metrics import Metrics
from mc.settings import HostSettings, Settings
from mc.users import Users
from mc.virsh import FOR_ONE_OF_MANY, Streams, for_the_only_host
from mc.web.access.accounts import Accounts
from mc.web.access.attempts import Attempts
from mc.web.access.guard import Guard
from mc.web.routes import routes
from mc.web.serve import serve
from mc.web.service.controller import Controller

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until told to end.

    Raises `Unusable` if virsh, the users file, the certificate or the address cannot be used.
    """
    _allow_open_files()
    log.info("virsh %s, libvirt at %s", check_virshs(settings), managed(settings))
    metrics = Metrics()
    index = Index()
    streams = Streams()
    # One machine may take up half of the places at most: another one never waits for it.
    turns = Turns(settings.turn_seconds, max(1, settings.actions_at_once // 2))
    shared = Shared(turns, streams, Pace(), index, metrics.command, len(settings.hosts) > 1)
    backups = {
        host.name: Backups(settings.backups_of(host), settings.backups_kept)
        for host in settings.hosts
    }
    every = [_host(settings, host, backups[host.name], shared) for host in settings.hosts]
    workers = Shares(settings.thread_pool + settings.event_streams, "requests")
    hosts = Hosts(every, index, workers, settings.list_seconds)
    folders = {name: Folder(one.trouble) for name, one in backups.items()}
    metrics.watch(hosts, folders)
    probes = Places(settings.probes_at_once, "health checks")
    base = Folder(Backups(Path(settings.backup_dir), settings.backups_kept).trouble)
    controller = Controller(
        hosts=hosts,
        places=Shares(settings.actions_at_once, "actions"),
        streams=Places(settings.event_streams, "event streams"),
        pictures=Places(settings.pictures_at_once, "pictures of screens"),
        health={
            None: Health(hosts.ask, base, probes),
            **{
                host.name: Health(host.virsh.hostname, folders[host.name], probes) for host in every
            },
        },
        metrics=metrics,
        state_words=settings.state_words,
        grace_seconds=settings.grace_seconds,
    )
    guard = Guard(settings.names, _accounts(settings))

    def serving(url: str) -> None:
        try:
            print(f"libvirt_mc: serving {url} for {managed(settings)}", flush=True)
        except OSError as error:
            log.warning("serving %s, which standard output does not take: %s", url, words(error))
        hosts.start()

    with ExitStack() as parts:
        warn_at_start(settings)
        parts.callback(streams.close)
        streams.start()
        parts.callback(hosts.close)
        serve(
            settings,
            routes(controller, settings.authentication),
            guard,
            on_serving=serving,
            on_stop=parts.close,
            on_answer=metrics.request,
        )


def _allow_open_files() -> None:
    """As many as may be: each virsh takes four, and the usual limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def managed(settings: Settings) -> str:
    """What there is to manage, for a person: a URI, or how many hosts."""
    one, *others = settings.hosts
    return f"{1 + len(others)} hosts" if others else one.uri


def _host(settings: Settings, host: HostSettings, backups: Backups, shared: Shared) -> Host:
    """One of many has bounds that leave something to the others; an only one needs none."""
    label = settings.label("libvirt.uri", host.name)
    if len(settings.hosts) > 1:
        return Host(host, label, FOR_ONE_OF_MANY, backups, 8, shared)
    layout = for_the_only_host(host.read_sessions, host.action_sessions, settings.actions_at_once)
    return Host(host, label, layout, backups, settings.actions_at_once, shared)


def _accounts(settings: Settings) -> Accounts | None:
    """The accounts, if there are any. Raises `UsersUnusable` if their file cannot be used."""
    if settings.anonymous:
        log.warning("auth.anonymous: whoever reaches %s may do everything", settings.host)
    if not settings.users_file:
        return None
    users = Users(Path(settings.users_file))
    for name in sorted(set(settings.readers) - users.names()):
        log.warning("auth.readers: there is no user %s", name)
    return Accounts(users, settings.readers, Attempts())
