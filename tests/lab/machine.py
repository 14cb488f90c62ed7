"""One machine of the laboratory: power, state, serial line and QEMU process."""

import errno
import os
import re
from pathlib import Path

from tests.lab import processes
from tests.lab.guest import Key, banners
from tests.lab.virsh import Virsh
from tests.lab.waiting import until


class Machine:
    """A defined machine. It is addressed by UUID: a name like `5` would be taken for an id.

    banner, disk: of its first disk.
    """

    def __init__(
        self, virsh: Virsh, name: str, uuid: str, banner: str, disk: Path, run_folder: Path
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.banner = banner
        self.disk = disk
        self._virsh = virsh
        self._keyboard = disk.parent / "serial.in"
        self._log = disk.parent / "serial.log"
        self._status = run_folder / f"{name}.xml"
        self._cut_short: set[int] = set()

    def __repr__(self) -> str:
        return f"Machine({self.name!r}, {self.uuid})"

    def virsh(self, command: str, *arguments: str, seconds: float = 60) -> str:
        """A virsh command on this machine: `machine.virsh("dumpxml", "--inactive")`.

        Raises VirshError, or subprocess.TimeoutExpired after so many seconds.
        """
        return self._virsh(command, "--domain", self.uuid, *arguments, seconds=seconds)

    def xml(self) -> str:
        """The persistent configuration, with its secrets: what `redefine` takes back unchanged."""
        return self.virsh("dumpxml", "--inactive", "--security-info")

    def redefine(self, xml: str) -> None:
        """Define the machine as the XML says, behind the back of whoever manages it."""
        definition = self.disk.parent / "domain.xml"
        definition.write_text(xml, encoding="utf-8")
        self._virsh("define", "--validate", "--file", str(definition))

    def start(self) -> None:
        """Power on, and return as soon as QEMU runs: 0.4 s before the guest's banner."""
        self.virsh("start")

    def boot(self) -> None:
        """Power on and wait for the guest's banner."""
        boots = self.boots
        self.start()
        self.wait_for_boot(boots + 1)

    def destroy(self) -> None:
        """Power off at once, in any state but `shut off`."""
        self.virsh("destroy")

    def state(self) -> str:
        """libvirt's word: `running`, `paused`, `in shutdown`, `shut off`, `crashed`, ..."""
        return self.virsh("domstate").strip()

    def state_and_reason(self) -> str:
        """libvirt's words with the reason, as `shut off (destroyed)`."""
        return self.virsh("domstate", "--reason").strip()

    def wait_for_state(self, state: str, seconds: float = 30) -> None:
        """Wait for libvirt's word, or, where it has a parenthesis, for the word with its reason."""
        read = self.state_and_reason if "(" in state else self.state
        until(read, seconds, f"state {state!r} of {self!r}", lambda now: now == state)

    def serial(self) -> str:
        """All that the machine has printed on COM1 since it was defined, over all its starts."""
        try:
            return self._log.read_bytes().decode("ascii", errors="replace")
        except FileNotFoundError:
            return ""

    def wait_for_serial(self, text: str, times: int = 1, seconds: float = 30) -> None:
        """Wait until `serial()` holds the text so many times; those of earlier starts count."""
        until(
            self.serial,
            seconds,
            f"{text!r} ({times} times) from {self!r}",
            lambda printed: printed.count(text) >= times,
        )

    @property
    def booted(self) -> list[str]:
        """The banner of each boot since the machine was defined: the device it booted from."""
        all_boots = enumerate(banners(self.serial()))
        return [banner for number, banner in all_boots if number not in self._cut_short]

    @property
    def boots(self) -> int:
        """How often the guest has booted since the machine was defined, from whatever device."""
        return len(self.booted)

    def wait_for_boot(self, times: int, seconds: float = 30) -> None:
        """Wait until the guest has booted so many times since the machine was defined."""
        until(
            lambda: self.booted, seconds, f"boot {times} of {self!r}", lambda now: len(now) >= times
        )

    def wait_for_boots(self, *banners: str, seconds: float = 30) -> None:
        """Wait until the machine, since it was defined, has booted from just these devices.

        Raises AssertionError as soon as it has booted so many times, but otherwise.
        """
        self.wait_for_boot(len(banners), seconds)
        booted = self.booted
        assert booted == [*banners], f"{self!r} booted from {booted}, not from {[*banners]}"

    def wait_for_reboot_into(self, *banners: str, seconds: float = 30) -> None:
        """As `wait_for_boots`, after a reboot that somebody turns into off and on.

        On a busy host the guest may boot from the old device before its power is cut. Such a boot
        does not count, then or later.
        """
        until(
            lambda: self.booted,
            seconds,
            f"reboot of {self!r} into {banners[-1]}",
            lambda now: len(now) >= len(banners) and now[-1] == banners[-1],
        )
        booted = self.booted
        if len(booted) > len(banners) > 1 and booted[-2] == banners[-2]:
            self._cut_short.add(len(booted) - 2 + len(self._cut_short))
        self.wait_for_boots(*banners)

    def press(self, key: Key | str) -> None:
        """Send a key to the guest, which reads it within 55 ms once it has printed its banner.

        Raises AssertionError when no QEMU runs. A key is lost when its QEMU ends before reading it.
        """
        try:
            keyboard = os.open(self._keyboard, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            # A FIFO that nobody reads.
            assert error.errno != errno.ENXIO, f"{self!r} is off: no QEMU reads its keys"
            raise
        try:
            os.write(keyboard, key.encode("ascii"))
        finally:
            os.close(keyboard)

    def number(self) -> int:
        """libvirt's number of the machine's run; a ValueError when it is off."""
        return int(self.virsh("domid"))

    def qemu_pid(self) -> int:
        """Id of the QEMU process; an AssertionError when there is none."""
        # libvirt's pid files have odd names XML-escaped; the file with its own notes has not.
        status = self._status.read_text(encoding="utf-8") if self._status.exists() else ""
        found = re.search(r"<domstatus [^>]*\bpid='(\d+)'", status)
        assert found and processes.state(int(found[1])), f"{self!r} has no QEMU"
        return int(found[1])

    def freeze(self) -> None:
        """Stop QEMU (SIGSTOP): it answers neither the guest nor libvirtd."""
        processes.freeze(self.qemu_pid())

    def thaw(self) -> None:
        """Let a frozen QEMU run on (SIGCONT)."""
        processes.thaw(self.qemu_pid())
