"""Decompositions of batches of matrices by LAPACK or cuSOLVER; those of float32 matrices are computed in float64."""

import math

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import (
    Matrices,
    eigh,
    gram,
    independent,
    magnitude,
    rounding,
    significant,
    times,
    whole,
)
from tsv_exp.layers import LowRank

_GRAM = 1e-4  # ratio of singular values that the Gram matrix keeps in float64: errors are of the size eps · ratio⁻²


def truncated_svd(matrices: Matrices, k: int) -> LowRank:
    """The top k singular components of matrices (..., m, n), without null directions.

    A component that does not stand out of rounding has a zero singular value and zero vectors in place of the
    arbitrary null vectors of a full SVD (the official code keeps those, which makes its merge depend on the library).
    All-zero matrices need no decomposition. float32 matrices are decomposed in float64: the float32 error of a vector
    is eps · σ_1 over the distance of its value to others.

    Returns:
        u (..., m, k), s (..., k) descending, vh (..., k, n).
    """
    *batch, m, n = matrices.shape
    k, count = min(k, m, n), math.prod(batch)
    like = torch.empty(0, dtype=matrices.dtype, device=matrices.device)
    u, s, vh = like.new_zeros(count, m, k), like.new_zeros(count, k), like.new_zeros(count, k, n)
    flat = matrices.reshape(count, m, n) if isinstance(matrices, Tensor) else matrices
    if k:
        for i in magnitude(flat).nonzero().flatten().tolist():
            one = flat[i] if isinstance(flat, Tensor) else flat
            u[i], s[i], vh[i] = _leading(one, k)
    return LowRank(u.view(*batch, m, k), s.view(*batch, k), vh.view(*batch, k, n))


def _leading(x: Matrices, k: int) -> LowRank:
    """The top k components of one matrix in float64, zero where they do not exceed rounding."""
    found = _by_gram(x, k) if x.dtype == torch.float32 else None
    if found is None:
        left, values, right = torch.linalg.svd(whole(x).double(), full_matrices=False)
        found = LowRank(left[..., :k], values[..., :k], right[..., :k, :])
    keep = _kept(found, x)
    return LowRank(found.u * keep.unsqueeze(-2), found.s * keep, found.vh * keep.unsqueeze(-1))


def _by_gram(x: Matrices, k: int) -> LowRank | None:
    """The top k singular components of a matrix from its float64 Gram matrix; None if they are too small for that."""
    if x.shape[-2] < x.shape[-1]:
        found = _by_gram(x.mT, k)
        return None if found is None else LowRank(found.vh.mT, found.s, found.u.mT)
    values, vectors = eigh(gram(x, torch.float64))
    s, v = values.flip(-1)[..., :k].clamp(min=0).sqrt(), vectors.flip(-1)[..., :k]
    small = bool((s[..., -1] <= _GRAM * s[..., 0]).any())
    return None if small else LowRank(times(x, v) / s.unsqueeze(-2), s, v.mT)


def _kept(factors: LowRank, x: Matrices) -> Tensor:
    """Which components (..., k) of a matrix, computed in float64, exceed the rounding errors of its entries."""
    m, n = x.shape[-2:]
    eps = torch.finfo(x.dtype).eps
    keep = factors.s > max(m, n) * eps * factors.s[..., :1]
    if not bool(keep.all()):
        keep |= significant(factors.s, m, n) & (factors.s > rounding(factors, x, eps))
    return keep


def polar(matrices: Tensor) -> LowRank:
    """The polar factors P Qᵀ of matrices (..., m, n) with the thin SVD P D Qᵀ; null directions are left out.

    Returns:
        u = P (..., m, r), s (..., r) of ones, and zeros for null directions, vh = Qᵀ (..., r, n), r = min(m, n). Other
        algebras may give other factors of the same product. It is computed in float64: a square concatenation of
        directions is nearly singular.
    """
    if not matrices.numel():
        *batch, m, n = matrices.shape
        return LowRank(*(matrices.new_zeros(*batch, *shape) for shape in ((m, 0), (0,), (0, n))))
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    kept = independent(values.to(matrices.dtype), *matrices.shape[-2:])
    return LowRank(left.to(matrices), kept.to(matrices), right.to(matrices))


class ExactAlgebra:
    """Full decompositions by LAPACK or cuSOLVER."""

    one_at_a_time = True
    truncated_svd = staticmethod(truncated_svd)
    polar = staticmethod(polar)
