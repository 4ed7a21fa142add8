"""Full decompositions of batches of matrices by LAPACK or cuSOLVER, in float64 where float32 loses what is kept."""

import math

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import independent, significant
from tsv_exp.layers import LowRank

_STEEP = 1e-2


def truncated_svd(matrices: Tensor, k: int) -> LowRank:
    """The top k singular components of matrices (..., m, n), without null directions.

    A component that does not stand out of rounding has a zero singular value and zero vectors in place of the
    arbitrary null vectors of a full SVD (the official code keeps those, which makes its merge depend on the library).
    All-zero matrices need no decomposition. The error of a vector is eps · σ_1 over the distance of its value to
    others: a float32 matrix whose smallest kept value is below 1e-2 · σ_1 is decomposed in float64.

    Returns:
        u (..., m, k), s (..., k) descending, vh (..., k, n).
    """
    *batch, m, n = matrices.shape
    k = min(k, m, n)
    flat = matrices.reshape(math.prod(batch), m, n)
    u, s, vh = flat.new_zeros(len(flat), m, k), flat.new_zeros(len(flat), k), flat.new_zeros(len(flat), k, n)
    if k:
        for i in flat.flatten(1).any(1).nonzero().flatten().tolist():
            left, values, right = torch.linalg.svd(flat[i], full_matrices=False)
            keep = significant(values, m, n)[:k]
            if flat.dtype == torch.float32 and values[int(keep.sum()) - 1] < _STEEP * values[0]:
                left, values, right = torch.linalg.svd(flat[i].double(), full_matrices=False)
                keep = significant(values.float(), m, n)[:k]
            u[i], s[i], vh[i] = left[:, :k] * keep, values[:k] * keep, right[:k] * keep.unsqueeze(-1)
    return LowRank(u.view(*batch, m, k), s.view(*batch, k), vh.view(*batch, k, n))


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
