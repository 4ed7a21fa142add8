"""Models whose task vectors count more or less than others': θ_pre + w · τ."""

from collections.abc import Mapping
from copy import copy

import torch
from torch import Tensor

from tsv_exp.layers import LowRank, compute_dtype, scaled
from tsv_exp.merging.inputs.views import View
from tsv_exp.merging.layer import ExplicitDeltas, Weights
from tsv_exp.merging.task_vectors import TaskVectors


class Weighted(View):
    """θ_pre + w · (θ − θ_pre), in the dtype that deltas are computed in."""

    def __init__(self, weights: Weights, base: Weights, weight: float) -> None:
        super().__init__(weights, {name: name for name in weights})
        self._base, self._weight = base, weight

    def __getitem__(self, name: str) -> Tensor:
        tensor = super().__getitem__(name)
        if name not in self._base or not tensor.is_floating_point():
            return tensor
        start = self._base[name].to(compute_dtype(tensor.dtype))
        return torch.lerp(start, tensor.to(start), self._weight)


class WeightedDeltas(Weighted):
    """The same for weights with explicit deltas, such as an adapter's."""

    _weights: ExplicitDeltas  # type: ignore[assignment]

    def delta(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """w · Δ, or None if there is no change."""
        delta = self._weights.delta(name, dtype)
        return None if delta is None else delta * self._weight

    def factors(self, name: str, dtype: torch.dtype) -> LowRank:
        """w · Δ as a product."""
        found = scaled(self._weights.factors(name, dtype), self._weight)
        assert isinstance(found, LowRank)
        return found


def weighted(stream: TaskVectors, weights: Mapping[str, float]) -> TaskVectors:
    """The stream with the task vectors of some models multiplied by numbers; checks are not repeated."""
    models = {task: _weighted(model, stream.base, weights.get(task, 1.0)) for task, model in stream.finetuned.items()}
    other = copy(stream)
    other.__dict__.pop("_adapters", None)
    other.__dict__["finetuned"] = models
    return other


def _weighted(model: Weights, base: Weights, weight: float) -> Weights:
    if weight == 1:
        return model
    return (WeightedDeltas if isinstance(model, ExplicitDeltas) else Weighted)(model, base, weight)
