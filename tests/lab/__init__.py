"""A laboratory for the tests: real libvirt and QEMU, private, without KVM, gone afterwards.

    from tests.lab import Key, Laboratory, Nic

    with Laboratory() as lab:
        machine = lab.define("alpha", banner="disk", machine="q35")
        machine.boot()                              # `booted disk` on the serial line
        machine.virsh("shutdown")                   # the guest obeys the power button
        machine.wait_for_state("shut off (shutdown)")
        machine.boot()
        machine.press(Key.REBOOT)                   # the guest reboots itself
        machine.wait_for_boot(3)
        machine.freeze()                            # SIGSTOP: QEMU answers no one
        lab.libvirtd.kill()                         # machines survive it
        lab.libvirtd.start()
        print(lab.uri, lab.virsh("list", "--all"))
        both = lab.define("beta", add=[Nic()], boot="device", boot_order=["network", "disk"])
        both.boot()                                 # `booted network`
        print(both.booted)                          # ["network"]

Several of them, as hosts of a network, where root runs this:

    with Network() as network:
        host = network.host("kvm1")                 # libvirtd, and an sshd
        host.lab.define("alpha")
        daemon = Daemon("--connect", host.uri("tcp"), python=network.python)
        host.cut()                                  # nothing comes through, and nobody is told
        host.mend()
        host.freeze()                               # SIGSTOP to all that runs there
        host.thaw()
        host.lose_power()
        host.regain_power()

It needs the Debian packages libvirt-clients, libvirt-daemon, libvirt-daemon-driver-qemu and
qemu-system-x86, which brings the firmware: seabios and ipxe-qemu; a network iproute2 and what is in
openssh-server as well. `python -m tests.lab` keeps a laboratory open to play with.
"""

from tests.lab.boot_device import Cdrom, Disk, Nic
from tests.lab.guest import Key, banner_line, boot_sector
from tests.lab.laboratory import Laboratory
from tests.lab.libvirtd import Libvirtd
from tests.lab.machine import Machine
from tests.lab.network import Host, Network
from tests.lab.virsh import Virsh, VirshError
from tests.lab.waiting import until

__all__ = [
    "Cdrom",
    "Disk",
    "Host",
    "Key",
    "Laboratory",
    "Libvirtd",
    "Machine",
    "Network",
    "Nic",
    "Virsh",
    "VirshError",
    "banner_line",
    "boot_sector",
    "until",
]
