"""The XML of a laboratory machine: no device that the guest leaves unused, to start fast."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

Chipset = Literal["pc", "q35"]
Boot = Literal["os", "device"]

BUS = {"pc": ("ide", "hda"), "q35": ("sata", "sda")}
"""The disk bus that each chipset has built in, and the first disk's name on it."""

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

    boot: `os` gives `<os><boot dev='hd'/></os>`, `device` gives `<boot order='1'/>` in the disk.
    memory: MiB.
    failing_disk: adds a second disk whose writes fail, which pauses the machine (I/O error).
    devices: more elements of `<devices>`; elements: more elements of `<domain>`.
    qemu_arguments: more arguments of QEMU (`<qemu:commandline>`).
    """

    name: str
    uuid: str
    disk: Path
    serial: Path
    serial_log: Path
    chipset: Chipset = "pc"
    boot: Boot = "os"
    memory: int = 16
    failing_disk: bool = False
    devices: str = ""
    elements: str = ""
    qemu_arguments: Iterable[str] = ()

    def xml(self) -> str:
        """The `<domain>` for `virsh define`. QEMU adds `.in` and `.out` to the serial's path."""
        bus, disk_name = BUS[self.chipset]
        arguments = [*(FAILING_DISK if self.failing_disk else ()), *self.qemu_arguments]
        command_line = "".join(f"<qemu:arg value='{escape(each)}'/>" for each in arguments)
        return f"""\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{escape(self.name)}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>{self.memory}</memory>
  <os>
    <type arch='x86_64' machine='{self.chipset}'>hvm</type>
    {"<boot dev='hd'/>" if self.boot == "os" else ""}
  </os>
  <features><acpi/></features>
  <on_crash>preserve</on_crash>
  <pm><suspend-to-mem enabled='yes'/></pm>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{escape(str(self.disk))}'/>
      <target dev='{disk_name}' bus='{bus}'/>
      {"<boot order='1'/>" if self.boot == "device" else ""}
    </disk>
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
