"""`python -m tests.lab`: a laboratory with a few machines, open until Enter, SIGINT or SIGTERM."""

import signal
import sys
from contextlib import suppress

from tests.lab import Key, Laboratory, Nic

USAGE = """\
{uri}

virsh -c '{uri}' list --all
A running machine obeys a key written to its serial.in, and prints to its serial.log:
{keys}
{machines}

Enter ends the laboratory."""


def main() -> None:
    """Serve until told to end; at the end of stdin (a background job) only a signal ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), Laboratory() as lab:
        machines = [
            lab.define("obedient"),
            lab.define("deaf", obeys_button=False),
            lab.define("q35", machine="q35", boot="device"),
            lab.define("failing-disk", failing_disk=True),
            lab.define("network-first", add=[Nic()], boot_order=["network", "disk"]),
        ]
        for machine in machines[:2]:
            machine.start()
        usage = USAGE.format(
            uri=lab.uri,
            keys=", ".join(f"{key} {key.name.lower()}" for key in Key),
            machines="\n".join(f"{each.name:13} {each.disk.parent}" for each in machines),
        )
        print(usage, flush=True)
        if not sys.stdin.readline():
            signal.pause()


if __name__ == "__main__":
    main()
