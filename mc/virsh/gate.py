"""Who decides whether a host is asked at all."""

from typing import Protocol

from mc.errors import Unavailable


class Gate(Protocol):
    """What Virsh tells and asks of its host. The methods are called in any thread, and never wait.

    They may call Virsh's methods that return at once.
    """

    def enter(self) -> None:
        """Before each command, and again by whoever has waited: raises to have it not done."""

    def tried(self, error: Unavailable | None) -> None:
        """What came of a try to open a session; None if it connected."""

    def suspect(self) -> None:
        """A read has had no answer: something may be wrong with the host."""


class OpenGate:
    """Lets everything through."""

    def enter(self) -> None:
        """Nothing is asked."""

    def tried(self, error: Unavailable | None) -> None:
        """Nobody wants to know."""

    def suspect(self) -> None:
        """Nobody wants to know."""
