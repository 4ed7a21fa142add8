"""The merging methods: pure functions on the deltas (T, *shape) of one layer over T tasks.

A function returns the merged task vector before α: a tensor (*shape) shared by all tasks, a tensor (T, *shape) or
low-rank factors with one entry per task, or a masked vector. conf/method/<name>.yaml names the function and
its parameters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank, Masked
from tsv_exp.linalg import Algebra, Exact, factors_suffice
from tsv_exp.selection import kth_magnitudes
from tsv_exp.task_vectors import TaskVectors, entrywise


def zero_shot(deltas: Tensor) -> Tensor:
    """The pre-trained model: 0."""
    return torch.zeros_like(deltas[0])


def individual(deltas: Tensor) -> Tensor:
    """The fine-tuned models themselves: τ_i for task i."""
    return deltas


@entrywise
def weight_average(deltas: Tensor) -> Tensor:
    """The mean of the models (arXiv 2203.05482): 1/T · Σ_i τ_i."""
    return deltas.mean(0)


@entrywise
def task_arithmetic(deltas: Tensor) -> Tensor:
    """Task arithmetic (arXiv 2212.04089): τ_mtl = Σ_i τ_i."""
    return deltas.sum(0)


Majority: TypeAlias = Callable[[], int]


def ties_statistics(stream: TaskVectors, density: float) -> Mapping[str, Any]:
    """What TIES needs to know of the whole flattened task vectors of d entries, frozen zeros included.

    Returns:
        thresholds (T,): of each task the (d − floor(density · d))-th smallest magnitude.
        majority: gives the sign of the sum over all entries of their elected signs; a pass that is only taken when
            asked for, since sums that cancel are rare.
    """
    if not 0 < density <= 1:
        raise UserError(f"density={density}: it is the share of entries that is kept; give a number in (0, 1]")
    size = stream.size
    thresholds = kth_magnitudes(stream.watched("trimming"), size - math.floor(density * size + 1e-9))
    lock = Lock()

    @cache
    def counted() -> int:
        votes = sum(
            stream.map(lambda layer: sum(int(_elect(_trimmed(part, thresholds)).sum()) for part in layer.blocks()))
        )
        return (votes > 0) - (votes < 0)

    def majority() -> int:
        with lock:  # layers are merged by several threads
            return counted()

    return {"thresholds": thresholds, "majority": majority}


@entrywise
def ties(deltas: Tensor, thresholds: Tensor, majority: Majority) -> Tensor:
    """TIES-Merging (arXiv 2306.01708): trim, elect a sign per entry, mean of the entries that agree.

    The elected sign is that of the sum over tasks of the trimmed entries; where the sum is 0 it is the `majority`
    sign, and where that is 0 too the negative one, as in the official code.
    """
    trimmed = _trimmed(deltas, thresholds)
    elected = _elect(trimmed)
    cancelled = (elected == 0) & (trimmed.abs().sum(0) > 0)
    if cancelled.any():
        elected[cancelled] = majority() or -1
    agreeing = (trimmed * elected).relu_()
    return agreeing.sum(0) * elected / agreeing.sign_().sum(0).clamp_(min=1)


def _trimmed(deltas: Tensor, thresholds: Tensor) -> Tensor:
    """The deltas without small entries: zero where the magnitude is below the threshold (T,) of the task."""
    below = torch.nextafter(thresholds.to(deltas), torch.tensor(-1.0).to(deltas)).tolist()  # ≥ x is > the float below x
    return torch.stack([hardshrink(delta, limit) for delta, limit in zip(deltas, below, strict=True)])


def _elect(trimmed: Tensor) -> Tensor:
    """The sign of the sum over tasks; in float64, so that float32 entries that cancel do so exactly."""
    return trimmed.sum(0, dtype=torch.float64).sign().to(trimmed.dtype)


@entrywise
def tall_mask(deltas: Tensor, lambda_: float | Sequence[float] = 0.4) -> Masked:
    """TALL masks (arXiv 2405.07813): task i uses mask_i ∘ τ_mtl, mask_i = |τ_i| > λ_i · |τ_mtl − τ_i|.

    Args:
        deltas: (T, *shape).
        lambda_: λ, one number or one per task.
    """
    total = deltas.sum(0)
    limits = _per_task(lambda_, deltas)
    return Masked(total, deltas.abs() > limits * (total - deltas).abs())


@entrywise
def consensus_ta(deltas: Tensor, threshold: int = 2, lambda_: float | Sequence[float] = 0.4) -> Tensor:
    """Consensus task arithmetic (arXiv 2405.07813): the entries of τ_mtl that enough TALL masks keep.

    Args:
        deltas: (T, *shape).
        threshold: how many masks must keep an entry.
        lambda_: λ of the masks, one number or one per task.
    """
    total, masks, _ = tall_mask(deltas, lambda_)
    return total * (masks.sum(0) >= threshold)


def _per_task(value: float | Sequence[float], deltas: Tensor) -> Tensor:
    values = torch.as_tensor(value, dtype=deltas.dtype, device=deltas.device)
    if values.dim() > 1 or values.numel() not in (1, len(deltas)) or not bool((values >= 0).all()):
        raise UserError(
            f"lambda_={value}: give one number, or one for each of the {len(deltas)} tasks, none of them negative"
        )
    return values.view(-1, *[1] * (deltas.dim() - 1))


def kept_components(shape: Sequence[int], tasks: int, rank_fraction: float | None = None) -> int:
    """The components k kept per task: floor(min(m, n) / T), or the share rank_fraction of min(m, n), at least 1."""
    full = min(shape)
    if rank_fraction is None:
        return full // tasks
    if not 0 < rank_fraction <= 1:
        raise UserError(
            f"rank_fraction={rank_fraction}: it is a share of the singular components; give a number in (0, 1]"
        )
    return min(full, max(1, math.floor(rank_fraction * full + 1e-9)))


@factors_suffice
def tsv_c(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = Exact()) -> LowRank:  # noqa: B008
    """TSV-Compress (arXiv 2412.00081, section 4.1): of each Δ_i its top k singular components.

    Args:
        deltas: (T, m, n).
        rank_fraction: k as a share of min(m, n); None is k = floor(min(m, n) / T).
        algebra: how the decomposition is computed.
    """
    return algebra.truncated_svd(deltas, kept_components(deltas.shape[1:], len(deltas), rank_fraction))


@factors_suffice
def tsv_m(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = Exact()) -> Tensor:  # noqa: B008
    """TSV-Merge (arXiv 2412.00081, algorithm 1): truncate, concatenate, orthogonalize both sides, multiply.

    With the top k components Δ_i ≈ U_i Σ_i V_iᵀ of every task, U = [U_1 … U_T], V = [V_1 … V_T] and
    polar(X) = P Qᵀ for the thin SVD X = P D Qᵀ, the nearest matrix with orthonormal columns:

        merged = polar(U) · diag(Σ_1 … Σ_T) · polar(V)ᵀ

    Args:
        deltas: (T, m, n).
        rank_fraction: k as a share of min(m, n); None is k = floor(min(m, n) / T).
        algebra: how the decompositions are computed.
    """
    return decorrelated(concatenated(tsv_c(deltas, rank_fraction, algebra=algebra)), algebra)


def concatenated(factors: LowRank) -> LowRank:
    """The factors of T tasks side by side without null directions: (m, K), (K,), (K, n) with K ≤ T · k."""
    kept = factors.s.flatten().nonzero().flatten()
    u = factors.u.transpose(0, 1).flatten(1)
    return LowRank(u.index_select(1, kept), factors.s.flatten()[kept], factors.vh.flatten(0, 1)[kept])


def decorrelated(factors: LowRank, algebra: Algebra) -> Tensor:
    """polar(u) · diag(s) · polar(vh) (m, n) of the factors of all tasks side by side."""
    left, right = algebra.polar(factors.u), algebra.polar(factors.vh)
    inner = left.s.unsqueeze(1) * left.vh * factors.s, right.u * right.s
    return torch.linalg.multi_dot([left.u, *inner, right.vh])  # in the order that takes the least work
