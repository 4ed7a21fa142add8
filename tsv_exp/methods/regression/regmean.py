"""Regression on second moments of the layers' inputs: RegMean."""

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import eigh, times
from tsv_exp.errors import UserError


def regmean(deltas: Tensor, moments: Tensor, off_diagonal: float = 0.95) -> Tensor:
    """RegMean (arXiv 2212.09849): the linear layer whose outputs are nearest to those of the tasks on their inputs.

    With the second moment A_t of task t's inputs, its entries off the diagonal times `off_diagonal`:
    Σ_t Δ_t A_t (Σ_t A_t)⁻¹ minimizes Σ_t tr (M − Δ_t) A_t (M − Δ_t)ᵀ. Directions that no input has get 0; the
    official code fails there.

    Args:
        deltas: (T, m, n).
        moments: (T, n, n), the mean of x xᵀ over inputs x of each task's layer.
        off_diagonal: in [0, 1].
    """
    if not 0 <= off_diagonal <= 1:
        raise UserError(f"off_diagonal={off_diagonal}: it is a factor of entries; give a number in [0, 1]")
    total = moments.new_zeros(moments.shape[1:], dtype=torch.float64)
    target = deltas.new_zeros(deltas.shape[1:], dtype=torch.float64)
    for delta, moment in zip(deltas.double(), moments.double(), strict=True):
        reduced = off_diagonal * moment + (1 - off_diagonal) * moment.diagonal().diag()
        total += reduced
        target += times(delta, reduced)
    values, vectors = eigh(total)
    # moments are sums of squares in float32
    kept = values > len(values) * torch.finfo(moments.dtype).eps * values[-1]
    inverse = torch.where(kept, values, torch.inf).reciprocal()
    return times(times(target, vectors) * inverse, vectors.mT).to(deltas)
