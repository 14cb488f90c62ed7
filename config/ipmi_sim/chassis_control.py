"""What OpenIPMI's `ipmi_sim` starts for each chassis request: it asks the controller over HTTP.

    chassis_control.py FOLDER/settings.json UUID get power|boot
    chassis_control.py FOLDER/settings.json UUID set power|reset|shutdown|boot|identify VALUE

Exit status 0 is success, anything else an IPMI error. What `get` asks for goes to standard output
as `power:1` or `boot:pxe`; why something failed goes to standard error, which is ipmi_sim's.
It runs on Python 3.9 and newer, without any packages.

ipmi_sim does nothing else until this program has ended, and ipmitool repeats what is not answered
within a second, which ipmi_sim then runs again. So each request to the controller is a job: a
process of its own, which goes on when the program's time is up, and a file, locked meanwhile.

- An action that has been sent but not answered in time is a success; its failure is logged later.
- The actions on a machine are done one after the other, in the order in which they came.
- An action that is asked for again while it is under way is the same one. So it is after that, if
  its message was waiting on the machine's port when the first one was answered, and no other action
  was asked for since: ipmitool's repetitions wait there. What comes after an answer is new.
- What is learned too late is told to the next who asks, unless an action came between: ipmi_sim
  asks each second in a cycle.
"""

import os
import sys
from collections.abc import Callable
from functools import partial

from controller import Controller, Machine, load
from jobs import ANSWER_SECONDS, Failed, Job, Request, complain, started
from port import Port

LATE_SECONDS = 1.5
"""How long what was learned too late can be told."""

BOOT_WORDS = {
    "pxe": "pxe",
    "disk": "default",
    "cdrom": "cdrom",
    "default": "bios",
    None: "none",
}
ACTIONS: dict[str, Callable[[Machine], str]] = {
    "set power 1": lambda machine: machine.do("power_on"),
    "set power 0": lambda machine: machine.do("force_off"),
    "set reset 1": lambda machine: machine.do("force_reset"),
    "set shutdown 1": lambda machine: machine.do("power_off"),
    # ipmitool's `disk` comes as `default`. No boot order can say "enter the firmware's setup", so
    # `bios` is the order that the machine had when the controller found it.
    "set boot pxe": lambda machine: machine.boot_once("pxe"),
    "set boot default": lambda machine: machine.boot_once("disk"),
    "set boot cdrom": lambda machine: machine.boot_once("cdrom"),
    "set boot bios": lambda machine: machine.boot_once("default"),
    "set boot none": lambda machine: machine.boot_once("none"),
}
QUESTIONS: dict[str, Callable[[Machine], str]] = {
    "get power": lambda machine: {"on": "power:1", "off": "power:0"}[machine.power()],
    "get boot": lambda machine: f"boot:{BOOT_WORDS[machine.boots_once()]}",
}


def main(arguments: list[str]) -> int:
    """Exit status."""
    os.umask(0o077)
    try:
        path, uuid, *words = arguments
        deadline = started() + ANSWER_SECONDS
        settings, ports = load(path)
        machine = Machine(Controller(settings, connect_by=deadline), uuid)
        files = os.path.join(os.path.dirname(path), "jobs", uuid)
        port = Port(ports.get(uuid))
        request = Request(f"{files}.asked", " ".join(words), deadline, port)
        try:
            perform(machine, request, files)
        finally:
            request.leave()
    except (Failed, OSError, ValueError) as error:
        complain(str(error))
        return 1
    return 0


def perform(machine: Machine, request: Request, path: str) -> None:
    """Do what ipmi_sim asks for; `path` is where the names of the machine's files begin."""
    words = request.words
    if words in QUESTIONS:
        answer = ask(partial(QUESTIONS[words], machine), request, f"{path}.{words[4:]}")
        os.write(1, f"{answer}\n".encode())
    elif words in ACTIONS:
        act(partial(ACTIONS[words], machine), request, path)
    elif words.startswith("set identify "):
        raise Failed("a virtual machine has no light to be identified by")
    else:
        raise Failed("there is no such request")


def ask(question: Callable[[], str], request: Request, path: str) -> str:
    """The answer. Joins a job that is under way, or whose answer nobody got."""
    job = Job.latest(path)
    if job is None or not (job.running() or job.age() < LATE_SECONDS):
        job = Job.start(path, request, question)
    request.step_aside()
    if not job.ended_by(request.deadline):
        raise Failed("the controller does not answer in time")
    forget(path)
    return job.value()


def act(action: Callable[[], str], request: Request, path: str) -> None:
    """Have it done, unless it is the same as the last action."""
    job = Job.latest(path)
    if not (job and job.name == request.words and (job.running() or request.repeated)):
        job = Job.start(path, request, action, after=job)
        for question in QUESTIONS:
            forget(f"{path}.{question[4:]}")  # What was learned before is no answer any more.
    request.begin()
    # What is repeated has been answered meanwhile, and others may be waiting.
    if job.ended_by(0 if request.repeated else request.deadline):
        job.value()


def forget(path: str) -> None:
    """Remove the file of a job, after which nobody joins it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # There is none, or somebody else has waited for it as well.


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
