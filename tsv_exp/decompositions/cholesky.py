"""Cholesky factors of symmetric matrices: whether they exist, and the solutions of linear systems."""

import torch
from torch import Tensor

from tsv_exp.decompositions import lapack
from tsv_exp.decompositions.lapack import solve_triangular
from tsv_exp.decompositions.numerics import times, transposed_times

_ROWS = 192  # of a triangle at a time: products are faster than LAPACK's substitution


def positive_definite(x: Tensor) -> Tensor:
    """Whether symmetric matrices (b, n, n) have a Cholesky factor (b,); upper triangles are read, and changed."""
    return lapack.cholesky(x) if x.device.type == "cpu" else torch.linalg.cholesky_ex(x, upper=True).info == 0


def solve(x: Tensor, y: Tensor) -> Tensor | None:
    """x⁻¹ y (n, k) of a symmetric matrix (n, n), whose upper triangle is read and changed, and y (n, k).

    None if x is not positive definite.
    """
    if x.device.type != "cpu":
        triangle, info = torch.linalg.cholesky_ex(x, upper=True)
        return None if info else torch.cholesky_solve(y, triangle, upper=True)
    if not lapack.cholesky(x):
        return None
    found = y.clone(memory_format=torch.contiguous_format)
    blocks = [(slice(start, start + _ROWS), slice(start + _ROWS, None)) for start in range(0, len(x), _ROWS)]
    for here, below in blocks:
        found[here] = solve_triangular(x[here, here].mT, found[here], upper=False)
        found[below] -= transposed_times(x[here, below], found[here])
    for here, below in reversed(blocks):
        found[here] = solve_triangular(x[here, here], found[here] - times(x[here, below], found[below]), upper=True)
    return found
