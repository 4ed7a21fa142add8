"""A task: its classes, its prompts, its examples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from tsv_exp.errors import UserError

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Task:
    """One task; `source` holds what its catalogue entry says beyond the others; `metric` is of tasks/metrics.py."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    source: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"


class Indexed(Protocol):
    """Inputs of N examples that are read, decoded or collated when they are asked for."""

    def __getitem__(self, index: slice | Tensor) -> Any:
        """The inputs of a slice, or of row numbers: any nested structure of tensors."""
        ...


@dataclass(frozen=True)
class Split:
    """Inputs of N examples, in memory, memory-mapped or made on demand, and labels (N,).

    Labels are class numbers (int64), or values (float32) where the metric is a correlation.
    """

    inputs: Tensor | Indexed
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Any, Tensor]]:
        """Consecutive batches of at most `size` inputs and labels."""
        for start in range(0, len(self), size):
            yield self.inputs[start : start + size], self.labels[start : start + size]


def select(catalogue: Mapping[str, Task], wanted: int | Sequence[str]) -> tuple[Task, ...]:
    """The first `wanted` tasks of a catalogue, or the named ones in the order given.

    Raises:
        UserError: a number outside the catalogue, an unknown name, an empty list, a name given twice.
    """
    known, first = ", ".join(catalogue), ", ".join(list(catalogue)[:2])
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        if not 1 <= wanted <= len(catalogue):
            raise UserError(
                f"tasks={wanted}: this model has {len(catalogue)} tasks; give 1 to {len(catalogue)} or a list of names"
            )
        return tuple(catalogue.values())[:wanted]
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise UserError(f"tasks={wanted}: give a number such as tasks=8 or a list such as tasks='[{first}]'")
    if not wanted:
        raise UserError(f"tasks=[]: the list is empty; choose from: {known}")
    for name in wanted:
        if name not in catalogue:
            raise UserError(f"tasks: unknown task {name!r}; choose from: {known}")
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if list(wanted).count(name) > 1)
        raise UserError(f"tasks: {twice!r} is given more than once; name each task once")
    return tuple(catalogue[name] for name in wanted)
