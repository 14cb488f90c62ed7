"""TLS without a socket: bytes from the client in, bytes for the client out.

OpenSSL on a socket of its own goes on reading for as long as a client sends records in which
nothing is said; so it gets what has come, and no more than that.
"""

import ssl
from contextlib import suppress

# RFC 8446, section 5.1.
_LONGEST_RECORD = 1 << 14
# Bytes that a client may send beyond those in which it says something: so many in its handshake, so
# many after it, and as many as it says. Each record has 22 of them, and says nothing until it is
# there as a whole.
_MOST_OVERHEAD = _LONGEST_RECORD + (1 << 13)


class Channel:
    """The server's side of a TLS connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._from_client = ssl.MemoryBIO()
        self._to_client = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._from_client, self._to_client, server_side=True)
        self._is_secured = False
        self._overhead = 0

    def received(self, data: bytes) -> bytes:
        """What the client says in the bytes that have come from it; maybe nothing yet.

        What is to be sent to it because of them, `to_send` has. Raises ssl.SSLError if it is no
        TLS, or none that is agreed on, EOFError when the client says that this is the end, and
        ConnectionAbortedError if it sends too much for what it says.
        """
        self._from_client.write(data)
        said = b"".join(self._read_all())
        self._overhead = max(0, self._overhead + len(data) - 2 * len(said))
        if self._overhead > _MOST_OVERHEAD:
            raise ConnectionAbortedError("too many bytes in which nothing is said")
        return said

    def _read_all(self) -> list[bytes]:
        parts = []
        try:
            if not self._is_secured:
                self._tls.do_handshake()
                self._is_secured = True
                self._overhead = 0
            while part := self._tls.read(_LONGEST_RECORD):
                parts.append(part)
        except ssl.SSLWantReadError:
            return parts
        if not parts:
            raise EOFError
        # What comes after these is the end of the connection itself, or nothing for ever.
        return parts

    def sealed(self, data: bytes) -> bytes:
        """The bytes to send in order to say this."""
        self._tls.write(data)
        return self.to_send()

    def to_send(self) -> bytes:
        """What is to be sent to the client."""
        return self._to_client.read()

    def farewell(self) -> bytes:
        """The bytes to send in order to say that nothing more will be said."""
        # It does not wait for the client's own, nor need there have been a handshake.
        with suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()
        return self.to_send()
