"""How far an action has got."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from mc.errors import ControllerError
from mc.machine.machines import Known, Machine


@dataclass
class Progress:
    """An action under way: an error that ends its `with` block carries along how far it got.

    machine: the one that it is about, once that is known.
    """

    machine: Machine | Known | None = None
    done: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, ControllerError):
            if self.machine is not None:
                error.name, error.uuid = self.machine.name, self.machine.uuid
            error.done = tuple(self.done)
