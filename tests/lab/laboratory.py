"""The laboratory: a private libvirtd in a temporary folder and the machines defined on it."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Self

from tests.lab.boot_device import BootDevice, Chipset, Disk
from tests.lab.domain_xml import Boot, Domain
from tests.lab.guest import boot_sector
from tests.lab.libvirtd import Libvirtd
from tests.lab.machine import Machine
from tests.lab.service import User
from tests.lab.tftp import WRAPPER, served
from tests.lab.virsh import Virsh


class Laboratory:
    """Real libvirt and QEMU, ready when constructed; `with` or `close` leaves nothing of it.

    folder: where everything is, below /tmp because libvirt's sockets allow paths of 107 bytes.
    uri: the libvirt URI of this laboratory.
    virsh: forks a virsh on it, `lab.virsh("list", "--all")`; see Virsh.
    libvirtd: the process, to be killed, started, frozen and thawed; see Libvirtd, also for the
    arguments.
    """

    def __init__(self, settings: str = "", within: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        self._user = User.unprivileged()
        with ExitStack() as cleanup:
            cleanup.callback(shutil.rmtree, self.folder)
            self._user.own(self.folder)
            self.libvirtd = Libvirtd(self.folder, self._user, settings, within)
            cleanup.callback(self.libvirtd.close)
            self.libvirtd.start()
            self._cleanup = cleanup.pop_all()
        self.uri = self.libvirtd.uri
        self.virsh = Virsh(self.uri, self.libvirtd.environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End libvirtd and every QEMU, frozen or not, and remove the folder; harmless twice."""
        self._cleanup.close()

    def define(
        self,
        name: str,
        *,
        banner: str = "disk",
        obeys_button: bool = True,
        machine: Chipset = "pc",
        add: Iterable[BootDevice] = (),
        boot: Boot = "os",
        boot_order: Sequence[str] | None = None,
        memory: int = 16,
        failing_disk: bool = False,
        devices: str = "",
        elements: str = "",
        qemu_arguments: Iterable[str] = (),
    ) -> Machine:
        """Define a machine that boots the laboratory's guest from its disk; it is not started.

        add: what there is besides the disk to boot from, see `boot_device`.
        boot_order: banners of the devices to try, by default only that of the disk.
        `guest.boot_sector` explains the first two arguments, `domain_xml.Domain` the others.
        Raises VirshError when libvirt refuses the name or the XML, ValueError when no machine can
        boot in that order.
        """
        identity = str(uuid.uuid4())
        boot_devices = []
        for number, device in enumerate([Disk(banner), *add]):
            content = device.content(boot_sector(device.banner, obeys_button=obeys_button), machine)
            path = f"machines/{identity}/{number}.{device.dev}"
            boot_devices.append((device, self.file(path, content, device.size)))
        disk = boot_devices[0][1]
        environment = served(boot_devices)
        domain = Domain(
            name=name,
            uuid=identity,
            boot_devices=boot_devices,
            boot_order=[banner] if boot_order is None else boot_order,
            serial=self._serial_line(disk.parent),
            serial_log=disk.parent / "serial.log",
            chipset=machine,
            boot=boot,
            memory=memory,
            failing_disk=failing_disk,
            emulator=self._tftp_emulator if environment else None,
            environment=environment,
            devices=devices,
            elements=elements,
            qemu_arguments=qemu_arguments,
        )
        definition = disk.parent / "domain.xml"
        definition.write_text(domain.xml(), encoding="utf-8")
        self.virsh("define", "--file", str(definition))
        return Machine(self.virsh, name, identity, banner, disk, self.libvirtd.run_folder)

    def file(self, name: str, content: bytes = b"", size: int = 0) -> Path:
        """A file for a machine's use that QEMU may read and write, filled up with zeros to size.

        The name is a path below the laboratory's folder, which is made as far as it is missing.
        """
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.truncate(path, max(size, len(content)))
        self._user.own(path)
        return path

    @cached_property
    def _tftp_emulator(self) -> Path:
        """One for all machines: libvirt asks each emulator once what it can do."""
        path = self.file("qemu-with-tftp", WRAPPER.encode())
        path.chmod(0o755)
        return path

    def _serial_line(self, folder: Path) -> Path:
        """The two ends of a serial line in the folder; QEMU is told the path without suffix."""
        self._user.own(folder)
        os.mkfifo(folder / "serial.in")
        self._user.own(folder / "serial.in")
        # What the guest prints is read from libvirt's log; a FIFO here would fill up unread.
        (folder / "serial.out").symlink_to(os.devnull)
        return folder / "serial"
