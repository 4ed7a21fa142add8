"""Methods with one vector for all tasks and a mask per task: TALL masks, Consensus TA, magnitude masks, EMR."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.layers import Masked
from tsv_exp.merging.layer import Layer, entrywise
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.sign_election import ties_statistics


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


def magnitude_thresholds(stream: TaskVectors, density: float) -> Mapping[str, Any]:
    """thresholds (T,): where TIES trims the whole flattened task vectors."""
    return {"thresholds": ties_statistics(stream, density)["thresholds"]}


@entrywise
def magnitude_mask(deltas: Tensor, thresholds: Tensor) -> Masked:
    """Magnitude masking (a baseline of arXiv 2405.07813): task i uses mask_i ∘ τ_mtl, mask_i where |τ_i| is largest.

    The masks are those of TIES' trimming; τ_mtl = Σ_i τ_i is not trimmed.
    """
    limits = thresholds.to(deltas).view(-1, *[1] * (deltas.dim() - 1))
    return Masked(deltas.sum(0), deltas.abs() >= limits)


def emr_rescalers(stream: TaskVectors) -> Mapping[str, Any]:
    """scales (T,): λ_i = Σ |τ_i| / Σ |M_i ∘ τ_uni| over the whole model; the official code adds up means of tensors."""

    def sums(layer: Layer) -> Tensor:
        vector, masks, _ = emr(layer.deltas, None)
        return torch.stack([_norms(layer.deltas), _norms(vector * masks)])

    own, masked = sum(
        stream.with_progress("rescaling").map(sums), start=torch.zeros(2, len(stream.tasks), dtype=torch.float64)
    )
    return {"scales": torch.where(masked > 0, own / masked, 0).to(stream.dtype)}


def _norms(vectors: Tensor) -> Tensor:
    """The L1 norms (T,) of (T, *shape)."""
    return vectors.abs().reshape(len(vectors), -1).sum(1, dtype=torch.float64).cpu()


@entrywise
def emr(deltas: Tensor, scales: Tensor | None) -> Masked:
    """EMR-Merging (arXiv 2405.17461, section 3.2, algorithm 1): elect, mask, rescale; task i uses λ_i · M_i ∘ τ_uni.

    τ_uni has per entry the sign of Σ_i τ_i and the largest magnitude among the τ_i of that sign; M_i = τ_i ∘ τ_uni > 0.

    Args:
        deltas: (T, *shape).
        scales: the rescalers λ_i (T,); None for none.
    """
    # float64, so that float32 entries that cancel do so exactly
    sign = deltas.sum(0, dtype=torch.float64).sign().to(deltas.dtype)
    masks = deltas * sign > 0
    return Masked(sign * (deltas.abs() * masks).amax(0), masks, scales)
