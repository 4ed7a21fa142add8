"""Scaling of merged matrices relative to those of the same kind: the only step of a method that compares layers."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite

from tsv_exp import layers
from tsv_exp.errors import UserError
from tsv_exp.layers import Representation
from tsv_exp.merging.task_vectors import TaskVectors

Factors = Callable[[Sequence[float]], Sequence[float]]  # norms of the matrices of one kind -> their factors


def layer_kind(name: str) -> str:
    """The kind of a layer: its name without the number of its block."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def scale_across(
    factors: Factors, method: str, merged: Mapping[str, Representation], stream: TaskVectors
) -> dict[str, Representation]:
    """The merged layers, with the matrices of each kind times the factors that their Frobenius norms give.

    Raises:
        UserError: the method has a model for each task, or the function does not return a finite number per norm.
    """
    kinds: dict[str, list[str]] = {}
    for name in merged:
        if stream.is_matrix(name):
            kinds.setdefault(layer_kind(name), []).append(name)
    result = dict(merged)
    for kind, names in kinds.items():
        if any(layers.per_task(merged[name], stream.base[name].shape) for name in names):
            raise UserError(f"method {method}: across scales one merged model; its function returns one per task")
        norms = [float(layers.delta(merged[name], stream.base[name].shape).norm()) for name in names]
        found = factors(norms)
        numbers = isinstance(found, Sequence) and all(isinstance(one, int | float) and isfinite(one) for one in found)
        if not numbers or len(found) != len(norms):
            raise UserError(f"method {method}: across returned {found} for {kind}; it may return a number per layer")
        result |= {name: layers.scaled(merged[name], one) for name, one in zip(names, found, strict=True)}
    return result
