"""Numbers that are chosen on validation data: the scaling α, and a parameter per task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Alpha:
    """The scaling α: its default without data, and the grid stop · i / steps, i = 1 … steps."""

    default: float = 1.0
    stop: float = 3.0
    steps: int = 30

    @property
    def grid(self) -> tuple[float, ...]:
        """The values to choose from; a single one is fixed."""
        return tuple(self.stop * i / self.steps for i in range(1, self.steps + 1))


@dataclass(frozen=True)
class Tune:
    """A parameter that every task chooses by its own validation accuracy at α = 1, with `function` as the method."""

    parameter: str
    values: tuple[float, ...]
    function: Callable[..., Any]
