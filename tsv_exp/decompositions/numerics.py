"""Gram matrices, and the thresholds below which singular values are rounding errors."""

from functools import reduce

import torch
from torch import Tensor

from tsv_exp.layers import LowRank

ROWS = 2048  # rows that are converted to a wider dtype at a time
ORTHOGONAL = 1e-3  # largest entry of UᵀU − I, and relative error of polar(X) on random probes, that is certified


def significant(singular_values: Tensor, m: int, n: int) -> Tensor:
    """Which of the descending singular values (..., r) of m × n matrices exceed rounding: max(m, n) · eps · σ_1."""
    eps = torch.finfo(singular_values.dtype).eps
    return singular_values > max(m, n) * eps * singular_values[..., :1]


def rounding(factors: LowRank, x: Tensor, eps: float) -> Tensor:
    """The part of the singular values (..., k) of matrices x (..., m, n) that may be due to rounding of their entries.

    Rounding changes x by a matrix E, |E_ij| ≤ eps · |x_ij|, and σ_j by at most eps · |u_j|ᵀ |x| |v_j| to first order.
    It is max(m, n) times that: as for `significant`, but large entries count only where a component meets them.
    """
    met = (factors.u.abs().mT @ x.abs() * factors.vh.abs()).sum(-1)
    return max(x.shape[-2:]) * eps * met


def independent(singular_values: Tensor, m: int, n: int) -> Tensor:
    """Which singular values (..., r) of m × n matrices are kept in a polar factor: those above √max(m, n) · eps · σ_1.

    Rounding leaves the null directions of a matrix with unit columns below this threshold. A square matrix of random
    directions has a smallest singular value of about 1/n, sometimes far smaller: its direction must stay.
    """
    eps = torch.finfo(singular_values.dtype).eps
    return singular_values > max(m, n) ** 0.5 * eps * singular_values.amax(-1, keepdim=True)


def gram(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The Gram matrices xᵀx (..., n, n) of matrices (..., m, n) in float32 or float64; `dtype` may be the wider one."""
    if dtype not in (None, x.dtype):
        return reduce(torch.add, (gram(part.to(dtype)) for part in x.split(ROWS, -2)))
    if x.device.type != "cpu":
        return x.mT @ x
    array = x.detach().numpy()
    return torch.from_numpy(array.swapaxes(-1, -2) @ array)  # numpy sees that it is symmetric, which halves the work


def times(x: Tensor, y: Tensor) -> Tensor:
    """x y of matrices (..., m, n) and (..., n, k) in the dtype of y, which may be the wider one."""
    if x.dtype == y.dtype:
        return x @ y
    return torch.cat([part.to(y.dtype) @ y for part in x.split(ROWS, -2)], -2)


def transposed_times(x: Tensor, y: Tensor) -> Tensor:
    """xᵀ y of matrices (..., m, n) and (..., m, k) in the dtype of y, which may be the wider one."""
    if x.dtype == y.dtype:
        return x.mT @ y
    parts = zip(x.split(ROWS, -2), y.split(ROWS, -2), strict=True)
    return reduce(torch.add, (part.to(y.dtype).mT @ own for part, own in parts))
