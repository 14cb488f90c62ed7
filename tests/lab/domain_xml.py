"""The XML of a laboratory machine: no device that the guest leaves unused, to start fast."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Literal

from tests.lab.boot_device import DRIVES, BootDevice, Chipset, Nic

Boot = Literal["os", "device"]

BLOCK_FAULT = {
    "driver": "blkdebug",
    "node-name": "failing",
    "image": {"driver": "null-co", "size": 1 << 20},
    # The event `none` holds from the start and for ever: every write fails with EIO.
    "inject-error": [{"event": "none", "iotype": "write", "errno": 5}],
}
"""QEMU's block device of 1 MiB that reads zeros and fails every write."""

# The firmware sets up only disks that have a place in the boot order. 99 leaves room for others.
FAILING_DISK = (
    "-blockdev",
    json.dumps(BLOCK_FAULT),
    "-device",
    "virtio-blk-pci,id=failing-disk,drive=failing,werror=stop,bootindex=99",
)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What is asked of a machine; the three last fields are XML or arguments passed on as they are.

    boot_devices: in document order, each with its file; no two have the same banner.
    boot: `os` gives `<os><boot dev='hd'/></os>`, `device` gives `<boot order='1'/>` in the disk.
    boot_order: banners of the devices to try. The firmware tries no others.
    memory: MiB.
    failing_disk: adds one more disk whose writes fail, which pauses the machine (I/O error).
    emulator: instead of libvirt's choice; environment: QEMU's.
    devices: more elements of `<devices>`; elements: more elements of `<domain>`.
    qemu_arguments: more arguments of QEMU (`<qemu:commandline>`).
    """

    name: str
    uuid: str
    boot_devices: Sequence[tuple[BootDevice, Path]]
    boot_order: Sequence[str]
    serial: Path
    serial_log: Path
    chipset: Chipset = "pc"
    boot: Boot = "os"
    memory: int = 16
    failing_disk: bool = False
    emulator: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    devices: str = ""
    elements: str = ""
    qemu_arguments: Iterable[str] = ()

    def xml(self) -> str:
        """The `<domain>` for `virsh define`. QEMU adds `.in` and `.out` to the serial's path.

        Raises ValueError when the boot order is impossible.
        """
        self._check_boot_order()
        emulator = f"<emulator>{escape(str(self.emulator))}</emulator>" if self.emulator else ""
        devices = "\n".join(self._device_elements())
        arguments = [*(FAILING_DISK if self.failing_disk else ()), *self.qemu_arguments]
        command_line = "".join(f"<qemu:arg value='{escape(each)}'/>" for each in arguments)
        command_line += "".join(
            f"<qemu:env name='{name}' value='{escape(value)}'/>"
            for name, value in self.environment.items()
        )
        return f"""\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{escape(self.name)}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>{self.memory}</memory>
  <os>
    <type arch='x86_64' machine='{self.chipset}'>hvm</type>
    {self._boot_elements()}
  </os>
  <features><acpi/></features>
  <on_crash>preserve</on_crash>
  <pm><suspend-to-mem enabled='yes'/></pm>
  <devices>
    {emulator}
{devices}
    <serial type='pipe'>
      <source path='{escape(str(self.serial))}'/>
      <log file='{escape(str(self.serial_log))}' append='on'/>
    </serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <panic model='isa'/>
    {self.devices}
  </devices>
  {self.elements}
  <qemu:commandline>{command_line}</qemu:commandline>
</domain>
"""

    def _check_boot_order(self) -> None:
        """`<os><boot>` names kinds of devices, and libvirt takes the first device of each kind."""
        by_banner = {device.banner: device for device, _ in self.boot_devices}
        if len(by_banner) < len(self.boot_devices):
            raise ValueError("two devices have the same banner")
        first = {device.dev: device.banner for device in reversed(by_banner.values())}
        for banner in self.boot_order:
            if banner not in by_banner:
                raise ValueError(f"no device has the banner {banner!r}")
            if self.boot == "os" and banner not in first.values():
                raise ValueError(f"{banner!r} is not the first device of its kind")

    def _boot_elements(self) -> str:
        """The `<boot>`s of `<os>`."""
        dev = {device.banner: device.dev for device, _ in self.boot_devices}
        order = self.boot_order if self.boot == "os" else ()
        return "".join(f"<boot dev='{dev[banner]}'/>" for banner in order)

    def _device_elements(self) -> Iterator[str]:
        """The `<disk>`s and `<interface>`s to boot from, in document order."""
        bus, names = DRIVES[self.chipset]
        free = iter(names)
        order = self.boot_order if self.boot == "device" else ()
        boots = {banner: f"<boot order='{place}'/>" for place, banner in enumerate(order, 1)}
        for device, file in self.boot_devices:
            boot = boots.get(device.banner, "")
            if isinstance(device, Nic):
                yield device.xml(self.chipset, file, boot)
            else:
                yield device.xml(bus, next(free), file, boot)
