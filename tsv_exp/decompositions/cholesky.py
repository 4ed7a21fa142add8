"""Cholesky factors by blocks of rows, which are matrix products mostly: on a CPU LAPACK's take twice as long."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tsv_exp.decompositions.lapack import solve_triangular
from tsv_exp.decompositions.numerics import add_gram, times, transposed_times

_ROWS = 192  # at a time


class _Rows(NamedTuple):
    """Rows `here` of R with RᵀR = x: R_ii (..., r, r), what is right of it, and LAPACK's info."""

    here: slice
    triangle: Tensor
    right: Tensor
    info: Tensor


def positive_definite(x: Tensor) -> Tensor:
    """Whether symmetric matrices (b, n, n) have a Cholesky factor (b,); upper triangles are read, and changed."""
    if x.device.type != "cpu":
        return torch.linalg.cholesky_ex(x, upper=True).info == 0
    good = torch.ones(len(x), dtype=torch.bool)
    for rows in _factor(x):
        good &= rows.info == 0
    return good


def solve(x: Tensor, y: Tensor) -> Tensor | None:
    """x⁻¹ y (n, k) of a symmetric matrix (n, n), whose upper triangle is read and changed, and y (n, k).

    None if x is not positive definite.
    """
    if x.device.type != "cpu":
        triangle, info = torch.linalg.cholesky_ex(x, upper=True)
        return None if info else torch.cholesky_solve(y, triangle, upper=True)
    found, factor = y.clone(memory_format=torch.contiguous_format), []
    for here, triangle, right, info in _factor(x):
        if info:
            return None
        found[here] = solve_triangular(triangle.mT, found[here], upper=False)
        found[here.stop :] -= transposed_times(right, found[here])
        factor.append((here, triangle, right))
    for here, triangle, right in reversed(factor):
        found[here] = solve_triangular(triangle, found[here] - times(right, found[here.stop :]), upper=True)
    return found


def _factor(x: Tensor) -> Iterator[_Rows]:
    """The factor of symmetric matrices (..., n, n), which are changed; its rows are meaningless from an info > 0 on."""
    for start in range(0, x.shape[-1], _ROWS):
        rows = x[..., start : start + _ROWS, start:]
        size = rows.shape[-2]
        triangle, info = torch.linalg.cholesky_ex(rows[..., :size], upper=True)
        right = solve_triangular(triangle.mT, rows[..., size:], upper=False)
        add_gram(x[..., start + size :, start + size :], right, -1)
        yield _Rows(slice(start, start + size), triangle, right, info)
