"""The first process of a PID namespace, as in a container: it has children that it never started.

What a virsh has started, such as the ssh of a `qemu+ssh:` URI, becomes a child of process 1 when
that virsh is gone, and stays as a zombie until process 1 asks how it ended (pid_namespaces(7)). The
daemon cannot ask that of all its children without taking away the answers that `subprocess` waits
for. So process 1 does nothing else, and the daemon is a child of it.
"""

import os
import signal
from collections.abc import Callable

_FAULTS = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
}
"""A process that cannot go on sends these to itself; blocked, they would be no better."""

_KEYS = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP}
"""What a terminal's keys send, to all processes in the foreground (termios(3))."""


def in_child_of_init(main: Callable[[], int]) -> int:
    """Do it in a child, and be its init; there must be no other thread yet.

    The exit status is the child's: what `main` returns, or 128 and the number of the signal that
    has ended it, as a shell tells it. What is left when process 1 ends, the kernel ends.
    """
    # Whoever set this to be ignored would have the kernel throw away how children ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Before there is a child: what comes from now on waits until it can be passed on.
    awaited = signal.valid_signals() - _FAULTS
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        return main()
    while True:
        told = signal.sigwaitinfo(awaited)
        if told.si_signo == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        # The child has what the keys send already: it stays in the same process group, so that it
        # may read from the terminal. A code above 0 says that the kernel sends it (sigaction(2)).
        elif told.si_signo not in _KEYS or told.si_code <= 0:
            os.kill(child, told.si_signo)


def _reap(child: int) -> int | None:
    """Reap all that have ended. The exit status of the child, if it is among them."""
    while True:
        # As long as the child is not reaped, there is one to wait for.
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return None
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
