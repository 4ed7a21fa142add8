"""A stream of task vectors whose layers are changed by a function."""

from collections.abc import Callable
from dataclasses import dataclass

from tsv_exp.merging.layer import Layer
from tsv_exp.merging.task_vectors import TaskVectors


def _unchanged(layer: Layer) -> Layer:
    return layer


@dataclass(frozen=True)
class Changed(TaskVectors):
    """The stream with `change` applied to every layer: Changed(**stream.fields(), change=...)."""

    change: Callable[[Layer], Layer] = _unchanged

    def layer(self, name: str) -> Layer:
        """One layer, changed."""
        return self.change(super().layer(name))
