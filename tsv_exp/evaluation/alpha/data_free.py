"""α without labels, data or forward passes: the merged model's responses match those of the fine-tuned models."""

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tsv_exp import layers
from tsv_exp.decompositions.numerics import gram
from tsv_exp.evaluation.alpha.choice import Candidate, Choice
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.task_vectors import TaskVectors

log = logging.getLogger(__name__)

LIMITS = (
    "α %.3g was computed without data: on our benchmarks that lost 0 to 23 points of normalized accuracy against "
    "validation, by method and network; prefer alpha=search if labelled examples exist (docs/data_free.md)"
)


@dataclass(frozen=True)
class DataFree:
    """The α at which merged and fine-tuned models respond alike to a proxy of the tasks' data."""

    def choose(self, candidate: Candidate) -> Choice:
        """Return that α; nothing is scored."""
        alpha = candidate.scale()
        log.warning(LIMITS, alpha)
        return Choice(alpha)


def data_free_scale(merged: Merged, vectors: TaskVectors) -> float:
    """α = √(a · b): at a merged and fine-tuned responses have equal norms, at b their difference is smallest.

    The task matrix is a proxy of the task's data, D_i = Δ_i / ‖Δ_i‖: M responds to its inputs by M D_iᵀ and to its
    outputs by D_iᵀ M; M is M_i if each task has its own. Summed over layers, tasks and both sides

        a² = Σ ‖Δ_i D_iᵀ‖² / Σ ‖M D_iᵀ‖²    and    b = Σ ⟨M D_iᵀ, Δ_i D_iᵀ⟩ / Σ ‖M D_iᵀ‖²

    Where responses differ in direction, a overestimates the scale and b underestimates it; b / a is their cosine
    (docs/data_free.md compares rules). Layers that are not matrices are ignored. 1 if no responses agree.
    """
    own, theirs, common = all_responses(merged, vectors)
    return math.sqrt(math.sqrt(own / theirs) * common / theirs) if theirs and common > 0 else 1.0


class Responses(NamedTuple):
    """Means over both sides: of ‖Δ Dᵀ‖², of ‖M Dᵀ‖², and of their inner product."""

    own: float = 0.0
    theirs: float = 0.0
    common: float = 0.0


def all_responses(merged: Merged, vectors: TaskVectors) -> Responses:
    """The sums over layers that are matrices and over tasks."""
    found = [
        responses(delta, layers.delta(merged.layers[name], delta.shape, task).to(delta))
        for name in filter(vectors.is_matrix, vectors.names)
        for task, delta in enumerate(vectors.layer(name).deltas)
    ]
    return Responses(*map(sum, zip(*found, strict=True)))


def responses(delta: Tensor, merged: Tensor) -> Responses:
    """How Δ and M (m, n) respond to D = Δ / ‖Δ‖; zeros if Δ = 0."""
    if delta.shape[0] < delta.shape[1]:
        return responses(delta.mT, merged.mT)
    norm = torch.linalg.vector_norm(delta, dtype=torch.float64).to(delta.dtype)
    if not norm:
        return Responses()
    unit = delta / norm
    inputs = gram(unit)
    by_inputs = (inputs * gram(merged)).sum()
    return Responses(
        own=float((inputs * norm).square().sum()),
        theirs=float((by_inputs + (unit.mT @ merged).square().sum()) / 2),
        common=float(((unit @ inputs) * merged).sum() * norm),  # equal on both sides
    )
