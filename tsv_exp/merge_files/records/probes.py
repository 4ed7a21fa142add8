"""The data-free α of a merge (evaluation/alpha/), estimated on a few of its matrices while they are merged."""

import math
import random
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import Matrices, parts, times, transposed_times
from tsv_exp.layers import LowRank, Masked, Representation
from tsv_exp.merging.layer import Layer

MATRICES = 4  # matrices per model: few enough that the cost is negligible
PROBES = 16  # random vectors per side of a matrix; products with 8 take three times as long


def sample(matrices: Sequence[str]) -> frozenset[str]:
    """The sampled matrices; deterministic for given names."""
    return frozenset(random.Random(0).sample(sorted(matrices), min(MATRICES, len(matrices))))


def probe(layer: Layer, merged: Representation) -> list[float]:
    """Estimates of Σ_i ‖Δ_i D_iᵀ‖², Σ_i ‖M D_iᵀ‖² and Σ_i ⟨M D_iᵀ, Δ_i D_iᵀ⟩ of both sides; D_i = Δ_i / ‖Δ_i‖.

    If G has independent standard normal entries, ‖X‖² is the expectation of ‖X G‖² per column (likewise for inner
    products), so products of matrices are replaced by products with PROBES columns.

    Args:
        layer: a matrix layer (T, m, n).
        merged: its merge before α, shared by all tasks.
    """
    assert not isinstance(merged, Masked)
    generator = torch.Generator().manual_seed(0)
    tasks, m, n = layer.shape
    outer, inner = torch.randn(m, PROBES, generator=generator), torch.randn(n, PROBES, generator=generator)
    found = torch.zeros(3, dtype=torch.float64)
    for task in range(tasks):
        delta = _delta(layer, task)
        by_input, by_output = _times(delta, outer, True), _times(delta, inner, False)  # Δᵀ G (n, p), Δ G (m, p)
        norm = _norm(delta)
        if not norm:
            continue
        own, theirs = _times(delta, by_input, False), _times(merged, by_input, False)
        other_own, other_theirs = _times(delta, by_output, True), _times(merged, by_output, True)
        pairs = ((own, own, other_own, other_own), (theirs, theirs, other_theirs, other_theirs))
        for i, (a, b, c, d) in enumerate((*pairs, (theirs, own, other_theirs, other_own))):
            found[i] += (_dot(a, b) + _dot(c, d)) / (2 * PROBES * norm)
    return found.tolist()


def estimate(responses: Iterable[Sequence[float]]) -> float | None:
    """α = √(a · b) as in `data_free_scale`, from the sums over layers; None if no responses agree."""
    sums = [sum(values) for values in zip(*responses, strict=True)]
    if not sums or not sums[1] or sums[2] <= 0:
        return None
    own, theirs, common = sums
    return math.sqrt(math.sqrt(own / theirs) * common / theirs)


def _delta(layer: Layer, task: int) -> Matrices | LowRank:
    if layer.factors is not None:
        return layer.factors[task]
    delta = layer.deltas[task] if layer.one is None else layer.one(task)
    return delta.view(layer.shape[1:]) if isinstance(delta, Tensor) else delta


def _times(matrix: Matrices | LowRank, vectors: Tensor, transposed: bool) -> Tensor:
    """X G, or Xᵀ G."""
    if isinstance(matrix, LowRank):
        left, right = (matrix.vh.mT, matrix.u.mT) if transposed else (matrix.u, matrix.vh)
        return left @ (matrix.s.unsqueeze(1) * (right @ vectors.to(right)))
    vectors = vectors.to(matrix.device, matrix.dtype)
    return transposed_times(matrix, vectors) if transposed else times(matrix, vectors)


def _norm(matrix: Matrices | LowRank) -> float:
    """‖X‖²."""
    if isinstance(matrix, LowRank):
        u, vh = (matrix.u * matrix.s).double(), matrix.vh.double()
        return float(((u.mT @ u) * (vh @ vh.mT)).sum())
    return sum(float(torch.linalg.vector_norm(part)) ** 2 for part in parts(matrix))


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())
