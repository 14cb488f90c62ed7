"""The files of ipmi_sim: a process serves many machines, each a BMC of its own."""

import json
import os
import pwd
import re
import shutil
import sys
from itertools import count, islice
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().with_name("chassis_control.py")
FIRST_BMC = 0x20
"""The address of the first machine's BMC on ipmi_sim's bus."""

MACHINES_PER_PROCESS = 200
"""ipmi_sim serves 223, in 12 MB, and cannot start with 255."""

LONGEST_LINE = 1000
"""ipmi_sim reads lines of 1023 bytes."""

MACHINE = """\

# {name}
set_working_mc {bmc:#x}
  startlan 1
    addr {address} {port}
    guid {guid}
  endlan
  chassis_control "{program}"
  user 2 true "{user}" "{password}" admin 10
"""
BMC = "mc_add {bmc:#x} 0 no-device-sdrs 0 1 0 0x80 0 0\nmc_enable {bmc:#x}\n"
UNIT = """\
[Unit]
Description=IPMI for the machines of libvirt_http_mc
After=network.target

[Service]
User={user}
ExecStart={command}
Restart=on-failure
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ReadWritePaths={folder}
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
MemoryMax=512M

[Install]
WantedBy=multi-user.target
"""

Settings = dict[str, Any]


class Unusable(Exception):
    """Raised if something that was asked for cannot be; the text says what."""


def plain(path: Path) -> Path:
    """A path that ipmi_sim, the shell that it starts and systemd all take as it is."""
    if not re.fullmatch(r"[\w./+,:=@-]+", str(path), re.ASCII):
        raise Unusable(f"{path}: this path must do with letters, digits and . / + , : = @ _ -")
    return path


def write_all(folder: Path, settings: Settings, machines: list[dict[str, str]]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "jobs").mkdir(mode=0o700, exist_ok=True)
    for old in [*folder.glob("lan*.conf"), *folder.glob("bmc*.emu"), *folder.glob("*.service")]:
        old.unlink()
    write(folder / "settings.json", json.dumps(settings, indent=2) + "\n")
    by_port = iter(sorted(machines, key=lambda machine: settings["ports"][machine["uuid"]]))
    for number in count(1):
        group = list(islice(by_port, MACHINES_PER_PROCESS))
        if not group:
            break
        write_group(folder, "" if number == 1 else f"-{number}", settings, group)


def write_group(
    folder: Path, part: str, settings: Settings, machines: list[dict[str, str]]
) -> None:
    """The files of one ipmi_sim process."""
    (folder / f"state{part}").mkdir(mode=0o700, exist_ok=True)
    bmcs = dict(enumerate(machines, FIRST_BMC))
    texts = [machine_text(folder, bmc, settings, machine) for bmc, machine in bmcs.items()]
    write(folder / f"lan{part}.conf", 'name "libvirt_http_mc"\n' + "".join(texts))
    added = "".join(BMC.format(bmc=bmc) for bmc in bmcs)
    write(folder / f"bmc{part}.emu", f"mc_setbmc {FIRST_BMC:#x}\n{added}")
    unit = UNIT.format(
        user=pwd.getpwuid(folder.stat().st_uid).pw_name,
        folder=folder,
        command=command(folder, part),
    )
    write(folder / f"libvirt-mc-ipmi{part}.service", unit)


def command(folder: Path, part: str) -> str:
    """What starts an ipmi_sim; `-p` keeps what it has saved from overriding its configuration."""
    ipmi_sim = plain(Path(shutil.which("ipmi_sim") or "/usr/bin/ipmi_sim"))
    files = f"-c {folder}/lan{part}.conf -f {folder}/bmc{part}.emu -s {folder}/state{part}"
    return f"{ipmi_sim} {files} -n -p"


def machine_text(folder: Path, bmc: int, settings: Settings, machine: dict[str, str]) -> str:
    """A machine's part of lan.conf; its name only in a comment, in which no character is odd."""
    python = plain(Path(sys.executable).resolve())
    # Neither the environment nor installed packages: Python starts in half the time.
    program = f"exec {python} -E -s -S {plain(PROGRAM)} {folder}/settings.json {machine['uuid']}"
    if len(program) > LONGEST_LINE:
        raise Unusable(f"{folder}: this path is too long for ipmi_sim")
    return MACHINE.format(
        name=label(machine),
        bmc=bmc,
        address=settings["address"],
        port=settings["ports"][machine["uuid"]],
        guid=guid(machine["uuid"]),
        program=program,
        user=settings["ipmi_user"],
        password=settings["ipmi_password"],
    )


def label(machine: dict[str, str]) -> str:
    """What a machine is called, and where it is if there are many hosts, on one line."""
    name = json.dumps(machine["name"])
    return f"{name} on {machine['host']}" if machine["host"] else name


def guid(uuid: str) -> str:
    """A UUID as IPMI sends it, the last byte first (IPMI 2.0, section 20.8)."""
    return bytes.fromhex(uuid.replace("-", ""))[::-1].hex()


def write(path: Path, text: str) -> None:
    """Whole or not at all, and for its owner only: passwords are in it."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
