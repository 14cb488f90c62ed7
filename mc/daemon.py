"""The daemon, put together from its parts."""

import logging
from contextlib import ExitStack
from pathlib import Path

from mc.actions.boot import BootVerbs
from mc.actions.power import Power
from mc.boot.backup import Backups
from mc.boot.control import BootControl
from mc.boot.definitions import Definitions
from mc.boot.reboots import RebootRule
from mc.boot.starts import Starts
from mc.checks import FirstLook
from mc.errors import words
from mc.hosts.watch import Watch
from mc.machine.machines import Machines
from mc.machine.supply import Supply
from mc.machine.turns import MachineTurns, Places
from mc.monitoring.health import Folder, Health
from mc.monitoring.metrics import Metrics
from mc.settings import Settings
from mc.users import Users
from mc.virsh import Virsh, check_binary, domain_events, qemu_events
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
    log.info("virsh %s, libvirt at %s", check_binary(settings.virsh), settings.uri)
    metrics = Metrics()
    virsh = Virsh(
        settings.virsh,
        settings.uri,
        read_sessions=settings.read_sessions,
        action_sessions=settings.action_sessions,
        actions_at_once=settings.actions_at_once,
        read_seconds=settings.read_seconds,
        action_seconds=settings.action_seconds,
        shutdown_mode=settings.shutdown_mode,
        on_command=metrics.command,
    )
    machines = Machines(virsh, settings.machines)
    backups = Backups(settings.backups, settings.backups_kept)
    folder = Folder(backups.trouble)
    metrics.watch(virsh, machines, folder.writable)
    # One machine may take up half of the places at most: another one never waits for it.
    turns = MachineTurns(machines, settings.turn_seconds, max(1, settings.actions_at_once // 2))
    supply = Supply(machines, virsh)
    definitions = Definitions(virsh, backups)
    boot = BootControl(virsh, definitions)
    starts = Starts(virsh, supply, definitions)
    # The embedded hypervisor lives inside one virsh, and shows its events to no other.
    followed = not settings.uri.startswith("test:")
    watch = Watch(machines, followed=followed)
    controller = Controller(
        uri=settings.uri,
        virsh=virsh,
        machines=machines,
        power=Power(machines, virsh, turns, supply, starts),
        boot=boot,
        boot_verbs=BootVerbs(machines, turns, supply, boot, starts),
        watch=watch,
        places=Places(settings.actions_at_once),
        health=Health(virsh, folder, Places(settings.probes_at_once, "health checks")),
        metrics=metrics,
        streams=Places(settings.event_streams, "event streams"),
        pictures=Places(settings.pictures_at_once, "pictures of screens"),
        state_words=settings.state_words,
        grace_seconds=settings.grace_seconds,
    )

    guard = Guard(settings.names, _accounts(settings))

    def announce(url: str) -> None:
        try:
            print(f"libvirt_mc: serving {url} for {settings.uri}", flush=True)
        except OSError as error:
            log.warning("serving %s, which standard output does not take: %s", url, words(error))

    with ExitStack() as parts:
        first_look = FirstLook(settings)
        parts.callback(first_look.close)
        first_look.start()
        if followed:
            rule = RebootRule(machines, turns, starts)
            parts.callback(rule.close)

            qemu = qemu_events(
                settings.virsh, settings.uri, on_event=rule.heard, on_end=rule.look_back
            )

            def heard(kind: str, name: str) -> None:
                if kind == "reboot" and not qemu.supported:
                    rule.rebooted(name)
                watch.heard(kind, name)

            events = domain_events(
                settings.virsh, settings.uri, on_event=heard, on_end=watch.stream_ended
            )
            for stream in (qemu, events):
                parts.callback(stream.close)
                stream.start()
            rule.look_back()
        parts.callback(watch.close)
        watch.start()
        # Whoever waits for libvirt then gives up.
        parts.callback(virsh.close)
        # Closed first: what is broken off there would leave machines off.
        parts.callback(starts.close)
        serve(
            settings,
            routes(controller, settings.authentication),
            guard,
            on_serving=announce,
            on_stop=parts.close,
            on_answer=metrics.request,
        )


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
