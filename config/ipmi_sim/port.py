"""A machine's port: what clients have sent to it, and ipmi_sim has not read."""

import os
import socket

SO_PEEK_OFF = 42
"""socket(7), asm-generic/socket.h: to look at one datagram after the other."""

MOST_DATAGRAMS = 64
STANDARD_ERROR = 2


class Port:
    """ipmi_sim's socket for a port, which comes along to the programs that it starts.

    What else comes along is closed: a job may outlive ipmi_sim.
    """

    def __init__(self, number: "int | None") -> None:
        self._socket = None
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208, since pathlib takes 5 ms.
            if int(name) <= STANDARD_ERROR:
                continue
            try:
                found = socket.socket(fileno=int(name))
            except OSError:
                continue  # No socket, or the folder that was listed.
            if found.type == socket.SOCK_DGRAM and found.getsockname()[1:2] == (number,):
                self._socket = found
            else:
                found.close()
        kept = self._socket.fileno() if self._socket else STANDARD_ERROR
        os.closerange(STANDARD_ERROR + 1, kept)
        os.closerange(kept + 1, 65536)

    def waiting(self) -> list[str]:
        """The session and the number of each message that waits, in hexadecimal, oldest first.

        Only messages of sessions that are open count (IPMI 2.0, section 13.6): whoever just opens
        one has not asked for anything yet.
        """
        if self._socket is None:
            return []
        self._socket.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        messages = []
        try:
            for _ in range(MOST_DATAGRAMS):
                messages.append(self._socket.recv(2048, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            pass  # That were all.
        return [message[6:14].hex() for message in messages if is_in_session(message)]

    def close(self) -> None:
        if self._socket:
            self._socket.close()


def is_in_session(message: bytes) -> bool:
    """Whether this is RMCP of class IPMI, of format RMCP+, with an IPMI payload and a session."""
    rmcp, form, payload, session = message[:4], message[4:5], message[5:6], message[6:10]
    is_ipmi = rmcp[:1] == b"\x06" and rmcp[3:] == b"\x07" and form == b"\x06"
    return is_ipmi and payload[0] & 0x3F == 0 and session != bytes(4)
