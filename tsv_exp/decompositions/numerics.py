"""Products with matrices, also with those that are computed by rows, and thresholds of rounding errors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tsv_exp.decompositions import lapack
from tsv_exp.layers import LowRank
from tsv_exp.runtime.parallel.threads import check_stopped

ROWS = 2048  # rows that are converted to a wider dtype, or computed, at a time
_CONDITION = 1e-4  # ratio of the sizes of columns, each without its part in those before, that Cholesky's QR needs
_TERMS = 192  # products that are summed at a time: numpy's BLAS adds 384 one by one, which costs accuracy
_SAFE = 1e-5  # sizes between this and its inverse have fourth powers, as in ‖xᵀx‖², that float32 can sum
ORTHOGONAL = 1e-3  # largest entry of UᵀU − I, and relative error of polar(X) on random probes, that is certified


@dataclass(frozen=True)
class Rows:
    """One matrix (1, m, n) whose rows are computed when they are needed, so that it is never in memory as a whole.

    Args:
        shape: (1, m, n).
        dtype: of its entries.
        device: where they are computed.
        blocks: computes the matrix as blocks (1, r, n) of at most so many rows, in order.
        columns: computes it in blocks of columns, as the blocks (1, r, m) of its transpose.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    blocks: Callable[[int], Iterator[Tensor]]
    columns: Callable[[int], Iterator[Tensor]]

    @property
    def mT(self) -> "Rows":  # noqa: N802 - as Tensor.mT
        """The transposed matrix."""
        one, m, n = self.shape
        return Rows(torch.Size((one, n, m)), self.dtype, self.device, self.columns, self.blocks)

    def split(self, rows: int, _: int = -2) -> Iterator[Tensor]:
        """Blocks of at most so many rows, as `Tensor.split` along the rows; stops if the merge is interrupted."""
        for block in self.blocks(rows):
            check_stopped()
            yield block

    def map(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        """The matrix with a function applied to its entries."""
        blocks, columns = ((lambda size, part=part: map(function, part(size))) for part in (self.blocks, self.columns))
        return Rows(self.shape, self.dtype, self.device, blocks, columns)

    def abs(self) -> "Rows":
        """The magnitudes of the entries."""
        return self.map(torch.abs)

    def __truediv__(self, divisor: Tensor) -> "Rows":
        return self.map(lambda part: part / divisor)


Matrices: TypeAlias = Tensor | Rows  # (..., m, n), or (1, m, n) by rows


def parts(x: Matrices) -> Iterable[Tensor]:
    """Matrices as they are, or in blocks of rows if they are computed by rows."""
    return (x,) if isinstance(x, Tensor) else x.split(ROWS)


def whole(x: Matrices) -> Tensor:
    """Matrices in memory."""
    return x if isinstance(x, Tensor) else torch.cat(list(parts(x)), -2)


def magnitude(x: Matrices) -> Tensor:
    """The largest magnitude (...,) in each of the matrices (..., m, n)."""
    found = (torch.maximum(part.amax((-2, -1)), -part.amin((-2, -1))) for part in parts(x))
    return reduce(torch.maximum, found)


def moderate(sizes: Tensor) -> bool:
    """Whether all magnitudes or norms of matrices are such that float32 can sum products of four of their entries."""
    return bool(((sizes > _SAFE) & (sizes < 1 / _SAFE)).all())


def significant(singular_values: Tensor, m: int, n: int) -> Tensor:
    """Which of the descending singular values (..., r) of m × n matrices exceed rounding: max(m, n) · eps · σ_1."""
    eps = torch.finfo(singular_values.dtype).eps
    return singular_values > max(m, n) * eps * singular_values[..., :1]


def rounding(factors: LowRank, x: Matrices, eps: float) -> Tensor:
    """The part of the singular values (..., k) of matrices x (..., m, n) that may be due to rounding of their entries.

    Rounding changes x by a matrix E, |E_ij| ≤ eps · |x_ij|, and σ_j by at most eps · |u_j|ᵀ |x| |v_j| to first order.
    It is max(m, n) times that: as for `significant`, but large entries count only where a component meets them.
    """
    met = (transposed_times(x.abs(), factors.u.abs()).mT * factors.vh.abs()).sum(-1)
    return max(x.shape[-2:]) * eps * met


def independent(singular_values: Tensor, m: int, n: int) -> Tensor:
    """Which singular values (..., r) of m × n matrices are kept in a polar factor: those above √max(m, n) · eps · σ_1.

    Rounding leaves the null directions of a matrix with unit columns below this threshold. A square matrix of random
    directions has a smallest singular value of about 1/n, sometimes far smaller: its direction must stay.
    """
    eps = torch.finfo(singular_values.dtype).eps
    return singular_values > max(m, n) ** 0.5 * eps * singular_values.amax(-1, keepdim=True)


def gram(x: Matrices, dtype: torch.dtype | None = None) -> Tensor:
    """The Gram matrices xᵀx (..., n, n) of matrices (..., m, n) in float32 or float64; `dtype` may be the wider one."""
    if not isinstance(x, Tensor) or dtype not in (None, x.dtype):
        rows = ROWS if isinstance(x, Tensor) else 2 * ROWS  # fewer sums of large matrices
        return _sum(gram(part.to(dtype or x.dtype)) for part in x.split(rows, -2))
    if x.device.type != "cpu":
        return x.mT @ x
    array = x.detach().numpy()
    with np.errstate(all="ignore"):  # infinities are found elsewhere
        # numpy sees that the product is symmetric, which halves the work
        return torch.from_numpy(array.swapaxes(-1, -2) @ array)


def add_gram(total: Tensor, x: Tensor, factor: float = 1.0) -> None:
    """Add factor · xᵀx of matrices (..., m, n) to symmetric ones (..., n, n), of which only upper triangles count."""
    if x.device.type == "cpu":
        lapack.add_gram(total, x, factor)
    else:
        total.add_(x.mT @ x, alpha=factor)


def eigh(x: Tensor, triangle: str = "L") -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues (..., n) and eigenvectors (..., n, n) of symmetric matrices, of which one triangle is read.

    On a GPU in float64: cuSOLVER then takes less than half of float32's time up to 512 columns, and the same beyond.
    """
    if x.device.type == "cpu":
        return lapack.eigh(x, triangle)
    values, vectors = torch.linalg.eigh(_widened(x), UPLO=triangle)
    return values.to(x), vectors.to(x)


def svd(x: Tensor) -> LowRank:
    """The thin SVD of matrices (..., m, n); on a GPU in float64, because cuSOLVER's float32 is less accurate."""
    return LowRank(*(part.to(x) for part in torch.linalg.svd(_widened(x), full_matrices=False)))


def qr(x: Tensor) -> tuple[Tensor, Tensor]:
    """The thin QR decomposition of matrices (..., m, n), m ≥ n; on a GPU by Cholesky: its products run side by side."""
    if x.device.type == "cpu":
        return lapack.qr(x)
    found = cholesky_qr(x)
    return tuple(torch.linalg.qr(x)) if found is None else found


def cholesky_qr(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Q (..., m, n) and R (..., n, n), x = Q R, from the Gram matrix in float64; None if its condition forbids that.

    Q deviates from orthonormality by about eps · κ², κ the condition number of x and eps that of float64.
    """
    wide = x.double()
    triangle, info = torch.linalg.cholesky_ex(gram(wide), upper=True)
    sizes = triangle.diagonal(dim1=-2, dim2=-1)
    if bool(info.any()) or not bool((sizes.amin(-1) > _CONDITION * sizes.amax(-1)).all()):
        return None
    return torch.linalg.solve_triangular(triangle, wide, upper=True, left=False).to(x), triangle.to(x)


def times(x: Matrices, y: Tensor) -> Tensor:
    """x y of matrices (..., m, n) and (..., n, k) in the dtype of y, which may be the wider one.

    On a CPU by numpy: its products use AVX-512 on all CPUs, torch's on Intel's only.
    """
    if not isinstance(x, Tensor) or x.dtype != y.dtype:
        return torch.cat([times(part.to(y.dtype), y) for part in x.split(ROWS, -2)], -2)
    if x.device.type != "cpu":
        return x @ y
    left, right = x.detach().numpy(), y.detach().numpy()
    with np.errstate(all="ignore"):  # infinities are found elsewhere
        product = left[..., :_TERMS] @ right[..., :_TERMS, :]
        for start in range(_TERMS, left.shape[-1], _TERMS):
            product += left[..., start : start + _TERMS] @ right[..., start : start + _TERMS, :]
    return torch.from_numpy(product)


def transposed_times(x: Matrices, y: Tensor) -> Tensor:
    """xᵀ y of matrices (..., m, n) and (..., m, k) in the dtype of y, which may be the wider one."""
    if isinstance(x, Tensor) and x.dtype == y.dtype:
        return times(x.mT, y)
    pairs = zip(x.split(ROWS, -2), y.split(ROWS, -2), strict=True)
    return _sum(times(part.to(y.dtype).mT, own) for part, own in pairs)


def _widened(x: Tensor) -> Tensor:
    """Matrices in the dtype in which they are decomposed: float64 on a GPU."""
    return x if x.device.type == "cpu" else x.double()


def _sum(parts: Iterable[Tensor]) -> Tensor:
    """The sum of new tensors, in the memory of the first."""
    return reduce(Tensor.add_, parts)
