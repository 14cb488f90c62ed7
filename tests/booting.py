"""What the tests of booting share: machines on both kinds of boot order, and what is asked."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any
from urllib.parse import urlencode

from tests.daemon import READS, Answer, Daemon
from tests.lab import Key, Laboratory, Machine, Nic, until

OK, BAD_REQUEST, CONFLICT, NOT_WRITTEN = 200, 400, 409, 507
PATIENCE = 30.0
Define = Callable[..., Machine]
_numbers = count(1)


@contextmanager
def machines(lab: Laboratory) -> Iterator[Define]:
    """What defines machines with a network card after the disk; all are gone at the end."""
    made: list[Machine] = []

    def define(**asked: Any) -> Machine:
        made.append(lab.define(f"boot-{next(_numbers)}", **{"add": [Nic()]} | asked))
        return made[-1]

    try:
        yield define
    finally:
        for machine in made:
            remove(lab, machine)


def remove(lab: Laboratory, machine: Machine) -> None:
    """A transient machine is gone once it is off."""
    if machine.uuid in lab.virsh("list", "--uuid"):
        machine.destroy()
    if machine.uuid in lab.virsh("list", "--all", "--uuid"):
        machine.virsh("undefine", "--managed-save", "--snapshots-metadata", "--nvram")


def get_boot(daemon: Daemon, machine: Machine) -> Any:
    """The JSON of what a machine boots."""
    answer = daemon.get(f"/service/{machine.name}/boot")
    assert answer.status == OK, answer
    return answer.json


def put_boot(daemon: Daemon, machine: Machine, **body: object) -> Answer:
    path = f"/service/{machine.name}/boot"
    return daemon.request("PUT", path, json.dumps(body).encode())


def set_boot(daemon: Daemon, machine: Machine, device: str, *, once: bool = False) -> None:
    """PUT boot, which changes something and powers nothing."""
    state = machine.state_and_reason()
    answer = put_boot(daemon, machine, device=device, once=once)
    assert (answer.status, answer.json["changed"]) == (OK, True), answer
    assert machine.state_and_reason() == state


def boot(daemon: Daemon, machine: Machine, verb: str, **parameters: object) -> None:
    """A boot verb, or a power verb that starts the machine."""
    query = urlencode(parameters)
    answer = daemon.act(machine.name, verb, f"?{query}" if query else "")
    assert answer.status == OK, answer
    assert (answer.json["changed"], answer.json["state"]) == (True, "running"), answer


@contextmanager
def commands(daemon: Daemon) -> Iterator[list[str]]:
    """What the daemon tells virsh to do meanwhile: the first words, filled in at the end."""
    given: list[str] = []
    before = len(daemon.virsh_commands())
    yield given
    words = [command.split(" ", 1)[0] for command in daemon.virsh_commands()[before:]]
    given += [word for word in words if word not in READS]


def boot_elements(xml: str) -> list[str]:
    return re.findall(r"<boot .*?/>", xml)


def event_stream(daemon: Daemon) -> int | None:
    """Id of the virsh that tells the daemon of reboots."""
    return daemon.stream("qemu-monitor-event")


def wait_for_reboot_rule(daemon: Daemon, define: Define) -> None:
    """Wait until the daemon hears of reboots, as a machine with a pending order shows."""
    probe = define()
    probe.boot()
    set_boot(daemon, probe, "pxe")

    def rebooted() -> bool:
        if probe.booted[-1] == "disk" and probe.serial().endswith("booted disk\n"):
            # It is off for a moment while the rule restarts it.
            with suppress(AssertionError):
                probe.press(Key.REBOOT)
        return probe.booted[-1] == "network"

    until(rebooted, PATIENCE, "reboot that is followed")


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def lifecycle(machine: Machine, event: str, action: str) -> None:
    """Set what libvirt does at it: `lifecycle(machine, "on_reboot", "destroy")`."""
    changed = re.sub(f"<{event}>.*?</{event}>", f"<{event}>{action}</{event}>", machine.xml())
    assert changed != machine.xml()
    machine.redefine(changed)


def booted_once(daemon: Daemon, machine: Machine) -> None:
    """The machine runs by a one-time boot from the network."""
    boot(daemon, machine, "pxeboot", once="true")
    until(lambda: machine.booted, PATIENCE, "network boot", lambda boots: boots[-1:] == ["network"])
    assert get_boot(daemon, machine)["running_once"] == "pxe"


def ended_unseen(daemon: Daemon, machine: Machine, first: str) -> None:
    """It is off, everybody is told why, and it boots by its order once the controller starts it."""
    machine.wait_for_state("shut off")
    status = get_boot(daemon, machine)
    assert (status["ended_once"], status["running_once"], status["once"]) == ("pxe", None, None)
    assert (status["order"], status["pending"]) == (["disk:hda"], False)
    until(
        daemon.log,
        PATIENCE,
        "line in the log",
        lambda log: re.search(
            rf"one-time boot \(pxe\) has ended while .* uuid={machine.uuid}", log
        ),
    )
    boot(daemon, machine, "power_on")
    machine.wait_for_boots("network", "disk")
    assert get_boot(daemon, machine)["ended_once"] is None
    assert machine.xml() == first
