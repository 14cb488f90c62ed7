"""What IPMI costs: stock ipmitool and ipmi_sim, a controller that asks for a password."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.daemon import PROGRAM, Daemon
from tests.detour import Detour
from tests.hypervisor import hypervisor, uuid_of
from tests.ipmi import CONFIGURE, PASSWORD, Simulator, configure, free_ports, idle
from tests.lab import until

Row = Callable[[str, str, str], None]
_TIMES = 15
_SLOW = 5.0


def ipmi(row: Row) -> None:
    """Read a state; reset by way of a controller that takes five seconds for each answer."""
    with tempfile.TemporaryDirectory() as name, free_ports() as first_port:
        folder = Path(name)
        uri = hypervisor(folder / "machines.xml", [("vm", "running")])
        users = folder / "users"
        account = [sys.executable, str(PROGRAM), "--users", str(users), "--add-user", "ipmi"]
        subprocess.run(account, input="secret\n", text=True, check=True, capture_output=True)
        with (
            Daemon("--connect", uri, "--users", str(users)) as daemon,
            Detour(daemon.port) as detour,
        ):
            options = [f"--controller=http://127.0.0.1:{detour.port}", f"--first-port={first_port}"]
            files = folder / "ipmi"
            done = configure(files, *options, "--user=ipmi", passwords=f"secret\n{PASSWORD}")
            assert done.returncode == 0, done
            with Simulator(files) as simulator:
                bmc = simulator.bmc(uuid_of(0))
                measured = median(lambda: bmc("chassis", "power", "status"))
                row("chassis power status, s: ipmitool", f"{measured:.3f}", "< 0.6")
                row("chassis power status, s: our program", f"{program(files):.3f}", "< 0.15")
                detour.seconds = _SLOW
                # Not bmc(...), which waits until the controller has answered, too.
                slow = seconds(lambda: bmc.run("chassis", "power", "reset").check_returncode())
                row("chassis power reset, controller takes 5 s, s", f"{slow:.2f}", "< 1")
                until(lambda: idle(files), 30, "end of the job")
            resets = sum(line.startswith("reset ") for line in daemon.virsh_commands())
            row("times that it was done", f"{resets}", "1")


def program(folder: Path) -> float:
    """Seconds that ipmi_sim waits, its shell included."""
    path = CONFIGURE.with_name("chassis_control.py")
    command = f"exec {sys.executable} -E -s -S {path} {folder}/settings.json {uuid_of(0)} get power"
    return median(lambda: subprocess.run(["sh", "-c", command], check=True, capture_output=True))


def median(what: Callable[[], object]) -> float:
    return statistics.median(seconds(what) for _ in range(_TIMES))


def seconds(what: Callable[[], object]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start
