"""Entry-wise methods: averages and sums of task vectors, also with dropped entries (DARE, Model Breadcrumbs)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, merges_products, sum_svd
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.layer import Layer, entrywise
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.sign_election import Majority, ties, ties_statistics


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


def dropped(deltas: Tensor, drop_rate: float, seed: int) -> Tensor:
    """Drop And REscale (DARE, arXiv 2311.03099): zero entries with probability p, divide the rest by 1 − p.

    The masks depend on the seed and on the layer's content, not on its place in the model: they are the same in every
    order of the layers, in every thread and on every device.

    Args:
        deltas: (T, *shape).
        drop_rate: p, in [0, 1).
        seed: of the masks.
    """
    if not 0 <= drop_rate < 1:
        raise UserError(f"drop_rate={drop_rate}: it is the probability of dropping an entry; give a number in [0, 1)")
    bits = deltas.view(torch.int64 if deltas.dtype == torch.float64 else torch.int32)
    generator = torch.Generator().manual_seed((int(bits.sum()) + seed) % 2**63)
    kept = torch.rand(deltas.shape, generator=generator) >= drop_rate
    return deltas * kept.to(deltas.device) / (1 - drop_rate)


def dare(deltas: Tensor, drop_rate: float = 0.9, seed: int = 0) -> Tensor:
    """DARE with task arithmetic (arXiv 2311.03099): Σ_i of the dropped and rescaled τ_i."""
    return dropped(deltas, drop_rate, seed).sum(0)


@dataclass(frozen=True)
class _Dropped(TaskVectors):
    """A stream of dropped and rescaled task vectors."""

    drop_rate: float = 0.0
    seed: int = 0

    def layer(self, name: str) -> Layer:
        layer = super().layer(name)
        return layer.with_deltas(dropped(layer.deltas, self.drop_rate, self.seed))


def dare_ties_statistics(stream: TaskVectors, density: float, drop_rate: float, seed: int) -> Mapping[str, Any]:
    """Statistics of the whole dropped and rescaled task vectors for TIES."""
    fewer = _Dropped(**stream.fields(), drop_rate=drop_rate, seed=seed)
    return {**ties_statistics(fewer, density), "drop_rate": drop_rate, "seed": seed}


def dare_ties(deltas: Tensor, thresholds: Tensor, majority: Majority, drop_rate: float, seed: int) -> Tensor:
    """DARE with TIES-Merging (arXiv 2311.03099): TIES of the dropped and rescaled τ_i."""
    return ties(dropped(deltas, drop_rate, seed), thresholds, majority)


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
