"""The laboratory proved on the real libvirt: later tests rely on each of these behaviours."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab import (
    Cdrom,
    Disk,
    Key,
    Laboratory,
    Machine,
    Nic,
    VirshError,
    boot_sector,
    processes,
    until,
)
from tests.lab.boot_device import BootDevice, Chipset
from tests.lab.domain_xml import Boot
from tests.lab.guest import banners
from tests.lab.option_rom import option_rom

ODD_NAMES = ["5", "--help", "a b", "x;y'\"&<>\\", "ünïcödé", "#", "a\tb"]

SECOND_DISK = """
<disk type='file' device='disk'>
  <driver name='qemu' type='raw'/><source file='{path}'/><target dev='hdb' bus='ide'/>
</disk>
"""

TWO_PLACES = {
    "os": ("<boot dev='hd'/>", "<boot dev='network'/>"),
    "device": ("<boot order='1'/>", "<boot order='2'/>"),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    with Laboratory() as laboratory:
        yield laboratory


@pytest.fixture
def machine(lab: Laboratory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """An obedient machine that has booted once."""
    machine = lab.define(request.node.name)
    machine.boot()
    yield machine
    if machine.state() != "shut off":
        machine.destroy()


def test_boot_sector_has_the_signature_and_an_empty_partition_table() -> None:
    sector = boot_sector("x" * 50)
    assert len(sector) == 512
    assert sector[446:] == bytes(64) + b"\x55\xaa"


@pytest.mark.parametrize("banner", ["x" * 200, "café"])
def test_impossible_banner_is_refused(banner: str) -> None:
    with pytest.raises(ValueError):
        boot_sector(banner)


def test_until_returns_the_value_that_holds() -> None:
    values = iter([1, 2, 3])
    assert until(lambda: next(values), 5, "three", lambda value: value == 3) == 3


def test_until_names_what_was_awaited_and_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"no miracle within 0\.1 s; last value: ''"):
        until(str, 0.1, "miracle")


@pytest.mark.parametrize("chipset", ["pc", "q35"])
@pytest.mark.parametrize("boot", ["os", "device"])
def test_guest_boots_and_obeys_the_power_button(
    lab: Laboratory, chipset: Chipset, boot: Boot
) -> None:
    machine = lab.define(f"{chipset} by {boot}", machine=chipset, boot=boot, banner=chipset)
    assert (machine.state(), machine.serial(), machine.boots) == ("shut off", "", 0)
    machine.boot()
    assert (machine.state_and_reason(), machine.boots) == ("running (booted)", 1)
    machine.virsh("shutdown")
    machine.wait_for_state("shut off (shutdown)")
    assert machine.serial() == f"booted {chipset}\npower button\n"


@pytest.mark.parametrize("chipset", ["pc", "q35"])
def test_deaf_guest_ignores_the_power_button(lab: Laboratory, chipset: Chipset) -> None:
    machine = lab.define(f"deaf {chipset}", machine=chipset, obeys_button=False)
    machine.boot()
    machine.virsh("shutdown")
    # Two keys, one after the other: the guest has looked at everything at least once in between.
    for times in (1, 2):
        machine.press(Key.WRITE)
        machine.wait_for_serial("not written\n", times)
    assert machine.state() == "running"
    assert "power button" not in machine.serial()


def test_reboot_by_the_button_keeps_qemu(machine: Machine) -> None:
    pid = machine.qemu_pid()
    machine.virsh("reboot")
    machine.wait_for_boot(2)
    assert machine.qemu_pid() == pid
    assert machine.serial() == "booted disk\npower button\nbooted disk\n"


@pytest.mark.parametrize("chipset", ["pc", "q35"])
def test_own_reboot_keeps_qemu(lab: Laboratory, chipset: Chipset) -> None:
    machine = lab.define(f"reboots {chipset}", machine=chipset)
    machine.boot()
    pid = machine.qemu_pid()
    machine.press(Key.REBOOT)
    machine.wait_for_boot(2)
    assert (machine.qemu_pid(), machine.state()) == (pid, "running")
    assert machine.serial() == "booted disk\nreboot\nbooted disk\n"


def test_boots_of_all_starts_are_counted(machine: Machine) -> None:
    pid = machine.qemu_pid()
    machine.destroy()
    assert machine.state_and_reason() == "shut off (destroyed)"
    machine.boot()
    assert machine.boots == 2
    assert machine.qemu_pid() != pid


def test_guest_powers_off_by_itself(machine: Machine) -> None:
    machine.press(Key.OFF)
    machine.wait_for_state("shut off (shutdown)")
    assert machine.serial().endswith("\noff\n")


def test_key_to_a_machine_that_is_off_is_an_error(lab: Laboratory) -> None:
    machine = lab.define("never started")
    with pytest.raises(AssertionError, match="is off"):
        machine.press(Key.REBOOT)
    with pytest.raises(AssertionError, match="has no QEMU"):
        machine.qemu_pid()


def test_panic_is_a_crash_that_reset_and_resume_end(machine: Machine) -> None:
    machine.press(Key.PANIC)
    machine.wait_for_state("crashed (panicked)")
    machine.virsh("reset")
    assert machine.state_and_reason() == "paused (crashed)"
    machine.virsh("resume")
    machine.wait_for_boot(2)
    assert machine.state() == "running"


@pytest.mark.parametrize("chipset", ["pc", "q35"])
def test_sleeping_guest_boots_when_woken(lab: Laboratory, chipset: Chipset) -> None:
    machine = lab.define(f"sleeps {chipset}", machine=chipset)
    machine.boot()
    pid = machine.qemu_pid()
    machine.press(Key.SLEEP)
    machine.wait_for_state("pmsuspended")
    machine.virsh("dompmwakeup")
    machine.wait_for_boot(2)
    machine.wait_for_state("running (event wakeup)")
    assert machine.qemu_pid() == pid


@pytest.mark.parametrize(("chipset", "boot"), [("pc", "os"), ("q35", "device")])
def test_failing_disk_pauses_the_machine(lab: Laboratory, chipset: Chipset, boot: Boot) -> None:
    machine = lab.define(f"fails {chipset} {boot}", machine=chipset, boot=boot, failing_disk=True)
    machine.boot()
    machine.press(Key.WRITE)
    machine.wait_for_state("paused (I/O error)")
    machine.virsh("reset")
    assert machine.state_and_reason() == "paused (I/O error)"
    machine.virsh("resume")
    machine.wait_for_boot(2)
    assert machine.state() == "running"


def test_second_disk_is_written(lab: Laboratory) -> None:
    disk = lab.file("second.raw", size=1 << 20)
    machine = lab.define("two disks", devices=SECOND_DISK.format(path=disk))
    machine.boot()
    machine.press(Key.WRITE)
    machine.wait_for_serial("\nwritten\n")
    machine.destroy()
    with disk.open("rb") as stream:
        assert stream.read(512).endswith(b"\x55\xaa")


def test_banners_are_whole_lines() -> None:
    assert banners("booted disk\nreboot\npower bubooted a b\nboo") == ["disk", "a b"]
    assert banners("booted dibooted disk\nbooted ne") == ["disk"]


def test_option_rom_has_what_a_firmware_checks() -> None:
    rom = option_rom(0x8086, 0x100E, boot_sector())
    pci, pnp = (int.from_bytes(rom[place : place + 2], "little") for place in (0x18, 0x1A))
    assert rom.startswith(b"\x55\xaa")
    assert len(rom) == rom[2] * 512
    assert rom[pci : pci + 8] == b"PCIR\x86\x80\x0e\x10"
    assert rom[pnp : pnp + 4] == b"$PnP"
    assert [sum(part) % 256 for part in (rom, rom[pnp : pnp + 32])] == [0, 0]


@pytest.mark.parametrize(("chipset", "boot"), [("pc", "os"), ("q35", "device")])
def test_guest_from_the_network_obeys(lab: Laboratory, chipset: Chipset, boot: Boot) -> None:
    machine = lab.define(
        f"network {chipset} {boot}",
        machine=chipset,
        add=[Nic()],
        boot=boot,
        boot_order=["network", "disk"],
    )
    machine.boot()
    machine.press(Key.REBOOT)
    machine.wait_for_boots("network", "network")
    machine.virsh("shutdown")
    machine.wait_for_state("shut off (shutdown)")
    assert machine.serial() == "booted network\nreboot\nbooted network\npower button\n"


def swapped(text: str, one: str, other: str) -> str:
    return other.join(part.replace(other, one) for part in text.split(one))


@pytest.mark.parametrize("boot", ["os", "device"])
def test_new_order_waits_for_a_new_qemu(lab: Laboratory, boot: Boot) -> None:
    name = f"reordered {boot}"
    machine = lab.define(name, add=[Nic()], boot=boot, boot_order=["disk", "network"])
    machine.boot()
    machine.redefine(swapped(machine.xml(), *TWO_PLACES[boot]))
    machine.press(Key.REBOOT)
    machine.wait_for_boots("disk", "disk")
    machine.destroy()
    machine.boot()
    assert machine.booted == ["disk", "disk", "network"]


@pytest.mark.parametrize(
    ("chipset", "banner"),
    [("pc", "disk2"), ("pc", "cdrom"), ("q35", "disk2"), ("q35", "cdrom")],
)
def test_every_device_boots(lab: Laboratory, chipset: Chipset, banner: str) -> None:
    machine = lab.define(
        f"{banner} of {chipset}",
        machine=chipset,
        add=[Nic(), Cdrom(), Disk("disk2")],
        boot="device",
        boot_order=[banner, "network", "disk"],
    )
    machine.boot()
    assert machine.booted == [banner]


def test_nic_without_rom_is_skipped(lab: Laboratory) -> None:
    machine = lab.define(
        "three cards",
        add=[Nic("mute", rom="none"), Nic("first"), Nic("second")],
        boot="device",
        boot_order=["mute", "second", "first", "disk"],
    )
    machine.boot()
    assert machine.booted == ["second"]


def test_network_boot_by_dhcp_and_tftp(lab: Laboratory) -> None:
    machine = lab.define("ipxe", add=[Nic(rom="ipxe")], boot_order=["network", "disk"])
    machine.boot()
    machine.virsh("shutdown")
    machine.wait_for_state("shut off (shutdown)")
    assert machine.serial() == "booted network\npower button\n"


@pytest.mark.parametrize(
    ("add", "order", "why"),
    [
        ([Nic(), Nic()], ["network"], "two devices have the same banner"),
        ([], ["network"], "no device has the banner 'network'"),
        ([Nic(), Nic("lan")], ["lan"], "'lan' is not the first device of its kind"),
        ([Nic(rom="ipxe"), Nic("lan", rom="ipxe")], ["lan"], "only one network card"),
    ],
)
def test_impossible_boot_order_is_refused(
    lab: Laboratory, add: list[BootDevice], order: list[str], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        lab.define("impossible", add=add, boot_order=order)


def test_boot_from_another_device_is_an_error(machine: Machine) -> None:
    with pytest.raises(AssertionError, match=r"booted from \['disk'\], not from \['network'\]"):
        machine.wait_for_boots("network")


def test_elements_and_qemu_arguments_reach_libvirt(lab: Laboratory) -> None:
    machine = lab.define(
        "extended", elements="<title>A &amp; B</title>", qemu_arguments=["-name", "<&'\">"]
    )
    assert machine.virsh("desc", "--title").strip() == "A & B"
    assert "<qemu:arg value='&lt;&amp;&apos;&quot;&gt;'/>" in machine.virsh("dumpxml")


def test_frozen_qemu_runs_on_when_thawed(machine: Machine) -> None:
    machine.freeze()
    assert processes.state(machine.qemu_pid()) == "T"
    machine.press(Key.REBOOT)
    assert (machine.state(), machine.boots) == ("running", 1)
    machine.thaw()
    machine.wait_for_boot(2)


def test_machines_survive_the_death_of_libvirtd(lab: Laboratory, machine: Machine) -> None:
    qemu, libvirtd = machine.qemu_pid(), lab.libvirtd.pid
    lab.libvirtd.kill()
    with pytest.raises(VirshError, match="Connection refused"):
        machine.state()
    machine.press(Key.REBOOT)
    machine.wait_for_boot(2)
    lab.libvirtd.start()
    assert lab.libvirtd.pid != libvirtd
    machine.wait_for_state("running")
    assert machine.qemu_pid() == qemu
    machine.virsh("shutdown")
    machine.wait_for_state("shut off (shutdown)")


def test_frozen_libvirtd_answers_when_thawed(lab: Laboratory, machine: Machine) -> None:
    lab.libvirtd.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        machine.virsh("domstate", seconds=0.5)
    lab.libvirtd.thaw()
    assert machine.state() == "running"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_name(lab: Laboratory, name: str) -> None:
    machine = lab.define(name)
    assert lab.virsh("domname", machine.uuid) == f"{name}\n"
    assert machine.state() == "shut off"


def test_qemu_of_an_odd_name_is_found(lab: Laboratory) -> None:
    machine = lab.define("started x;y'\"&<>\\")
    machine.start()
    assert processes.state(machine.qemu_pid())
    machine.destroy()


def test_failure_of_virsh_carries_its_words(lab: Laboratory) -> None:
    machine = lab.define("off")
    with pytest.raises(VirshError, match="domain is not running") as caught:
        machine.destroy()
    assert caught.value.arguments == ("destroy", "--domain", machine.uuid)
    assert caught.value.stderr.startswith("error: Failed to destroy domain")


def test_libvirtd_is_an_ordinary_users(lab: Laboratory) -> None:
    assert Path(f"/proc/{lab.libvirtd.pid}").stat().st_uid != 0


def living(folder: str) -> list[int]:
    """Processes whose arguments or environment name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
        if folder.encode() in text:
            found.append(int(process.name))
    return found


def test_nothing_is_left_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), Laboratory() as lab:
        machines = [lab.define("awake"), lab.define("frozen")]
        for machine in machines:
            machine.start()
        pids = [lab.libvirtd.pid, *(machine.qemu_pid() for machine in machines)]
        machines[1].freeze()
        lab.libvirtd.freeze()
        assert set(pids) < set(living(str(lab.folder)))
        raise ZeroDivisionError
    assert living(str(lab.folder)) == []
    assert not lab.folder.exists()
    assert [processes.state(pid) for pid in pids] == ["", "", ""]
    lab.close()


def start_unless_libvirtd_dies(machine: Machine) -> None:
    with suppress(VirshError):
        machine.start()


def test_nothing_is_left_when_a_machine_is_just_starting() -> None:
    with Laboratory() as lab:
        machine = lab.define("starting")
        starting = threading.Thread(target=start_unless_libvirtd_dies, args=[machine])
        starting.start()
        until(machine.state, 30, "start under way", lambda state: state != "shut off")
    starting.join()
    assert living(str(lab.folder)) == []
    assert not lab.folder.exists()


def test_libvirtd_that_does_not_start_tells_why() -> None:
    with Laboratory() as lab:
        lab.libvirtd.kill()
        (lab.folder / "config/libvirt/libvirtd.conf").write_text("nonsense")
        with pytest.raises(AssertionError, match="ended while starting") as caught:
            lab.libvirtd.start()
    assert "libvirtd.conf:1" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, None])
def test_command_ends_all_its_processes(number: signal.Signals | None) -> None:
    """Also when it is killed (SIGKILL), which leaves only the folder; None stands for Enter."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.lab"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as command:
        assert command.stdin and command.stdout
        uri = command.stdout.readline().strip()
        # To the end: nothing is written any more when nobody reads.
        while command.stdout.readline() != "Enter ends the laboratory.\n":
            assert command.poll() is None
        folder = uri.partition("socket=")[2].removesuffix("/run/libvirt/libvirt-sock")
        assert len(living(folder)) >= 4  # keeper, libvirtd, two machines
        if number:
            os.kill(command.pid, number)
        else:
            command.stdin.write("\n")
    until(lambda: living(folder), 10, "end of all processes", lambda left: not left)
    assert Path(folder).exists() == (number == signal.SIGKILL)
    assert command.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    if number == signal.SIGKILL:
        subprocess.run(["rm", "-r", folder], check=True)
