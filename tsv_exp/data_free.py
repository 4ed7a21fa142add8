"""α without labels, images or forward passes: the merged model answers to the tasks as strongly as their own models."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tsv_exp import layers
from tsv_exp.alpha import Candidate, Choice
from tsv_exp.engine import Merged
from tsv_exp.fast import gram
from tsv_exp.task_vectors import TaskVectors


@dataclass(frozen=True)
class DataFree:
    """The α at which merged and fine-tuned models respond alike to what stands in for the tasks' data."""

    def choose(self, candidate: Candidate) -> Choice:
        """That α; nothing is scored."""
        return Choice(candidate.scale())


def response_scale(merged: Merged, vectors: TaskVectors) -> float:
    """The α with equal mean square response of merged and fine-tuned matrices, over layers, tasks and both sides.

    A task's own matrix stands in for its data, D_i = Δ_i / ‖Δ_i‖: to its inputs M responds by M D_iᵀ, on its outputs by
    D_iᵀ M, and α² = Σ (‖Δ_i D_iᵀ‖² + ‖D_iᵀ Δ_i‖²) / Σ (‖M D_iᵀ‖² + ‖D_iᵀ M‖²), with M_i where each task has its own.
    Layers that are not matrices take no part. 1 where nothing responds.
    """
    own = theirs = 0.0
    for name in filter(vectors.is_matrix, vectors.names):
        deltas = vectors.layer(name).deltas
        for task, delta in enumerate(deltas):
            wanted, got = responses(delta, layers.delta(merged.layers[name], delta.shape, task).to(delta))
            own, theirs = own + wanted, theirs + got
    return math.sqrt(own / theirs) if own and theirs else 1.0


def responses(delta: Tensor, merged: Tensor) -> tuple[float, float]:
    """½ (‖X Dᵀ‖² + ‖Dᵀ X‖²) of X = delta and of X = merged (m, n), where D = delta / ‖delta‖; 0 if there is no D."""
    if delta.shape[0] < delta.shape[1]:
        return responses(delta.mT, merged.mT)
    norm = torch.linalg.vector_norm(delta, dtype=torch.float64).to(delta.dtype)
    if not norm:
        return 0.0, 0.0
    unit = delta / norm
    inputs = gram(unit)
    by_inputs = (inputs * gram(merged)).sum()
    return float((inputs * norm).square().sum()), float((by_inputs + (unit.mT @ merged).square().sum()) / 2)
