"""A gate to virsh that tells the tests what it was told."""

from mc.errors import Unavailable
from mc.virsh.gate import OpenGate


class Keeper(OpenGate):
    """A gate that remembers what it is told, and may be shut."""

    def __init__(self) -> None:
        self.entered = 0
        self.tries: list[str] = []
        self.suspected = 0
        self.shut = False

    def enter(self) -> None:
        self.entered += 1
        if self.shut:
            raise Unavailable("shut")

    def tried(self, error: Unavailable | None) -> None:
        self.tries.append(str(error or "connected"))

    def suspect(self) -> None:
        self.suspected += 1
