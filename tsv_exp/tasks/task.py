"""A task: its classes, its prompts, its examples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from torch import Tensor

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Task:
    """One task; `source` is the rest of its definition (definitions.py); `metric` is one of tasks/metrics.py."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    source: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"


class Indexed(Protocol):
    """Inputs of N examples that are read, decoded or collated on access."""

    def __getitem__(self, index: slice | Tensor) -> Any:
        """The inputs at a slice or at row indices: any nested structure of tensors."""
        ...


@dataclass(frozen=True)
class Rows:
    """Some of the inputs, by their row indices (R,)."""

    inputs: "Tensor | Indexed"
    rows: Tensor

    def __getitem__(self, index: slice | Tensor) -> Any:
        return self.inputs[self.rows[index]]


@dataclass(frozen=True)
class Split:
    """Inputs of N examples, in memory, memory-mapped or computed on access, and labels (N,).

    Labels are class indices (int64), or values (float32) if the metric is a correlation.
    """

    inputs: Tensor | Indexed
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Split":
        """The examples at these row indices (R,)."""
        return replace(self, inputs=Rows(self.inputs, rows), labels=self.labels[rows])

    def batches(self, size: int) -> Iterator[tuple[Any, Tensor]]:
        """Consecutive batches of at most `size` inputs and labels."""
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size], self.labels[start : start + size]
