"""Entry-wise methods: averages and sums of task vectors, also with dropped entries (DARE, Model Breadcrumbs)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, merges_products, sum_svd
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.changed import changed
from tsv_exp.merging.layer import entrywise
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.sign_election import Majority, ties, ties_statistics
from tsv_exp.methods.steps.before import drop


def zero_shot(deltas: Tensor) -> Tensor:
    """The pre-trained model: 0."""
    return torch.zeros_like(deltas[0])


def individual(deltas: Tensor) -> Tensor:
    """The fine-tuned models themselves: τ_i for task i."""
    return deltas


def _sum_product(deltas: Tensor, *, algebra: Algebra) -> LowRank:
    """Σ_i τ_i as factors (m, K), (K,), (K, n)."""
    return sum_svd(deltas, min(deltas.shape[1:]), algebra)


def _mean_product(deltas: Tensor, *, algebra: Algebra) -> LowRank:
    """1/T · Σ_i τ_i as factors (m, K), (K,), (K, n)."""
    u, s, vh = _sum_product(deltas, algebra=algebra)
    return LowRank(u, s / len(deltas), vh)


@merges_products(_mean_product)
@entrywise
def weight_average(deltas: Tensor) -> Tensor:
    """The mean of the models (arXiv 2203.05482): 1/T · Σ_i τ_i."""
    return deltas.mean(0)


@merges_products(_sum_product)
@entrywise
def task_arithmetic(deltas: Tensor) -> Tensor:
    """Task arithmetic (arXiv 2212.04089): τ_mtl = Σ_i τ_i."""
    return deltas.sum(0)


def dare(deltas: Tensor, drop_rate: float = 0.9, seed: int = 0) -> Tensor:
    """DARE with task arithmetic (arXiv 2311.03099): Σ_i of the dropped and rescaled τ_i."""
    return drop(deltas, drop_rate, seed).sum(0)


def dare_ties_statistics(stream: TaskVectors, density: float, drop_rate: float, seed: int) -> Mapping[str, Any]:
    """Statistics of the whole dropped and rescaled task vectors for TIES."""
    fewer = changed(stream, lambda layer: layer.with_deltas(drop(layer.deltas, drop_rate, seed)))
    return {**ties_statistics(fewer, density), "drop_rate": drop_rate, "seed": seed}


def dare_ties(deltas: Tensor, thresholds: Tensor, majority: Majority, drop_rate: float, seed: int) -> Tensor:
    """DARE with TIES-Merging (arXiv 2311.03099): TIES of the dropped and rescaled τ_i."""
    return ties(drop(deltas, drop_rate, seed), thresholds, majority)


def breadcrumbs(deltas: Tensor, beta: float = 0.85, gamma: float = 0.994) -> Tensor:
    """Model Breadcrumbs (arXiv 2312.06795): Σ_i m_i ∘ τ_i without each layer's smallest and largest entries.

    Of the d entries of a layer, by ascending magnitude (the earlier entry first among equals), the first floor(β d) and
    the last floor((1 − γ) d) are masked.

    Args:
        deltas: (T, *shape).
        beta: β, the share of entries of smallest magnitude that is masked.
        gamma: γ; the share 1 − γ of entries of largest magnitude is masked.
    """
    if not 0 <= beta < gamma <= 1:
        raise UserError(f"beta={beta}, gamma={gamma}: they are shares of the entries; give 0 <= beta < gamma <= 1")
    flat = deltas.reshape(len(deltas), math.prod(deltas.shape[1:]))
    d = flat.shape[1]
    order = flat.abs().argsort(dim=1, stable=True)
    kept = order[:, math.floor(beta * d + 1e-9) : d - math.floor((1 - gamma) * d + 1e-9)]
    return torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept)).sum(0).view(deltas.shape[1:])
