"""A stream of task vectors whose layers are changed by a function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import Matrices, Rows
from tsv_exp.layers import LowRank
from tsv_exp.merging.layer import Layer
from tsv_exp.merging.task_vectors import TaskVectors

Change = Callable[[Layer], Layer]


def _unchanged(layer: Layer) -> Layer:
    return layer


@dataclass(frozen=True)
class Changed(TaskVectors):
    """A stream with `change` applied to every layer, and to the matrices of a layer that is a stack of them."""

    change: Change = _unchanged

    def layer(self, name: str) -> Layer:
        """One layer, changed."""
        return self.change(super().layer(name))


def changed(stream: TaskVectors, change: Change) -> Changed:
    """The stream with `change` applied to every layer, after earlier changes."""
    before = stream.change if isinstance(stream, Changed) else _unchanged
    return Changed(**stream.fields(), change=lambda layer: change(before(layer)))


def weighted(stream: TaskVectors, weights: Mapping[str, float]) -> TaskVectors:
    """The stream with the task vectors of some models multiplied by numbers."""
    own = torch.tensor([weights.get(task, 1.0) for task in stream.tasks], dtype=torch.float64)
    return stream if bool((own == 1).all()) else changed(stream, lambda layer: _weighted(layer, own))


def _weighted(layer: Layer, weights: Tensor) -> Layer:
    def times(deltas: Tensor, chosen: Tensor = weights) -> Tensor:
        return deltas.mul_(chosen.to(deltas).view(-1, *(1 for _ in deltas.shape[1:])))

    def one(give: Callable[[int], Matrices], task: int) -> Matrices:
        delta, weight = give(task), weights[task : task + 1]
        return delta.map(lambda part: times(part, weight)) if isinstance(delta, Rows) else times(delta, weight)

    form, parts, single = layer.form, layer.parts, layer.one
    return replace(
        layer,
        form=lambda: times(form()),
        parts=parts and (lambda stride: map(times, parts(stride))),
        one=single and (lambda task: one(single, task)),
        factors=layer.factors
        and tuple(LowRank(u, s * float(w), vh) for (u, s, vh), w in zip(layer.factors, weights, strict=True)),
    )
