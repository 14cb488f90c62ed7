"""What OpenIPMI's `ipmi_sim` starts for each chassis request: it asks the controller over HTTP.

    chassis_control.py FOLDER/settings.json UUID get power|boot
    chassis_control.py FOLDER/settings.json UUID set power|reset|shutdown|boot|identify VALUE

Exit status 0 is success, anything else an IPMI error. What `get` asks for goes to standard output
as `power:1` or `boot:pxe`; why something failed goes to standard error, which is ipmi_sim's.
It runs on Python 3.9 and newer, without any packages.

ipmi_sim does nothing else until this program has ended, and ipmitool repeats what is not answered
within a second, which ipmi_sim then runs again. So each request to the controller is a job: a
process of its own, which goes on when the program's time is up, and a file, locked meanwhile.

- A power action that has been sent but not answered in time is a success, as IPMI has it; its
  failure is logged later. A boot device is set only when the controller has said so.
- The actions on a machine are done one after the other, in the order in which they came.
- Who asks for the power is told what it is after all power actions, and who asks for the boot
  device, after all that set one, or nothing: never what was before.
- An action that is asked for again while it is under way is the same one. So it is after that, if
  its message was waiting on the machine's port when the first one was answered, and no other action
  was asked for since: ipmitool's repetitions wait there. What comes after an answer is new. A
  question that is repeated gets the answer that there is, at once.
- What is learned too late is told to the next who asks, unless an action came between: ipmi_sim
  asks each second in a cycle.
"""

import os
import sys
from collections.abc import Callable

from controller import Controller, Machine, load
from jobs import (
    ANSWER_SECONDS,
    LEAST_ANSWER_SECONDS,
    LEAST_PATIENT_SECONDS,
    PATIENT_SECONDS,
    Failed,
    Job,
    Request,
    clock,
    complain,
    started,
)
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
        path, uuid, *given = arguments
        words = " ".join(given)
        settings, ports = load(path)
        soon = max(started() + ANSWER_SECONDS, clock() + LEAST_ANSWER_SECONDS)
        later = max(started() + PATIENT_SECONDS, clock() + LEAST_PATIENT_SECONDS)
        machine = Machine(Controller(settings, connect_by=soon), uuid)
        files = os.path.join(os.path.dirname(path), "jobs", uuid)
        port = Port(ports.get(uuid))
        deadline = soon if is_power_action(words) else later
        request = Request(f"{files}.asked", words, deadline, port)
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
        answer = ask(lambda: QUESTIONS[words](machine), request, path)
        os.write(1, f"{answer}\n".encode())
    elif words in ACTIONS:
        act(lambda: ACTIONS[words](machine), request, path)
    elif words.startswith("set identify "):
        raise Failed("a virtual machine has no light to be identified by")
    else:
        raise Failed("there is no such request")


def is_power_action(words: str) -> bool:
    return words in ACTIONS and about(words) == "power"


def about(words: str) -> str:
    """What a request asks for or changes: `boot` or `power`."""
    return "boot" if words.split()[1] == "boot" else "power"


def ask(question: Callable[[], str], request: Request, path: str) -> str:
    """The answer, as it is after all actions on it that were accepted.

    Joins a job that is under way, or whose answer nobody got.
    """
    path = f"{path}.{about(request.words)}"
    told = f"{path}.told"
    job = Job.latest(path)
    if request.repeated:
        job = job or Job.latest(told)
    elif job and not job.running() and job.age() > LATE_SECONDS:
        job = None
    if job is None:
        job = Job.start(path, request, question, after=Job.latest(f"{path}.set"))
    request.begin(action=False)
    if not job.ended_by(request.patience):
        raise Failed("the controller does not answer in time")
    forget(path, kept_as=told)
    return job.value()


def act(action: Callable[[], str], request: Request, path: str) -> None:
    """Have it done, unless it is the same as the last action."""
    job = Job.latest(path)
    if not (job and job.name == request.words and (job.running() or request.repeated)):
        job = Job.start(path, request, action, after=job, name=f"{path}.{about(request.words)}.set")
        for question in QUESTIONS:
            # What was learned before is no answer any more.
            forget(f"{path}.{about(question)}")
    request.begin(action=True)
    if job.ended_by(request.patience):
        job.value()
    elif not is_power_action(request.words):
        raise Failed("the controller does not answer in time")


def forget(path: str, kept_as: str = "") -> None:
    """Take away the file of a job, after which nobody joins it."""
    try:
        if kept_as:
            os.replace(path, kept_as)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass  # There is none, or somebody else has waited for it as well.


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
