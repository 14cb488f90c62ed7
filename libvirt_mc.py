#!/usr/bin/env python3
"""The daemon's entry point. Any Python can read this file, and be told what is missing."""

import os
import sys

OLDEST = (3, 11)


def start() -> int:
    """Exit status: 0 after an orderly end, 1 if it cannot serve, 2 if told the impossible."""
    if sys.version_info < OLDEST:
        needed, found = (".".join(map(str, one[:2])) for one in (OLDEST, sys.version_info))
        sys.stderr.write(
            "libvirt_mc: Python " + needed + " or newer is needed, and this is " + found + " ("
            + (sys.executable or "unknown") + "): start it by another one, such as "
            "`python" + needed + " libvirt_mc.py`\n"
        )  # fmt: skip
        return 1
    if os.getpid() == 1:
        from mc.init import in_child_of_init

        return in_child_of_init(main)
    return main()


def main() -> int:
    """The exit status, from a Python that is new enough."""
    from mc.command_line import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
