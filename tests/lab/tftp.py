"""A real network boot: QEMU's own DHCP and TFTP servers offer the guest to the iPXE of a card.

libvirt has no element for QEMU's options `tftp` and `bootfile`; a wrapper around QEMU adds them.
"""

from collections.abc import Iterable
from pathlib import Path

from tests.lab.boot_device import BootDevice, Nic

# libvirt's argument is {"type":"user","id":"hostnet0"}. `restrict` keeps all else inside QEMU. When
# libvirt asks what this emulator can do, no argument looks like that, and QEMU gets them unchanged.
WRAPPER = r"""#!/bin/sh
for argument; do
    shift
    case $argument in
    '{"type":"user",'*)
        served="\"tftp\":\"$TFTP_FOLDER\",\"bootfile\":\"$TFTP_FILE\",\"restrict\":true"
        argument="{$served,${argument#?}"
        ;;
    esac
    set -- "$@" "$argument"
done
exec qemu-system-x86_64 "$@"
"""
"""The text of an `<emulator>` that gives every user network a TFTP server."""


def served(boot_devices: Iterable[tuple[BootDevice, Path]]) -> dict[str, str]:
    """What the wrapper wants in its environment to serve a card's iPXE; empty without such a card.

    Raises ValueError when there are several, as they could not be told apart.
    """
    files = [
        path for device, path in boot_devices if isinstance(device, Nic) and device.rom == "ipxe"
    ]
    if not files:
        return {}
    if len(files) > 1:
        raise ValueError("only one network card can boot by TFTP")
    return {"TFTP_FOLDER": str(files[0].parent), "TFTP_FILE": files[0].name}
