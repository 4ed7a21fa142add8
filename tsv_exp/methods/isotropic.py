"""Isotropic merging (arXiv 2502.04959): merged matrices with equal singular values."""

import math

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, merges_products, sum_svd
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.numerics import times, transposed_times
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.methods.singular_vectors import concatenate_factors, decorrelate


def iso_c_product(deltas: Tensor, *, algebra: Algebra) -> LowRank:
    """`iso_c` as factors (m, K), (K,), (K, n); T task matrices of rank r give at most T · r components."""
    u, s, vh = sum_svd(deltas, min(deltas.shape[1:]), algebra)
    return LowRank(u, s.mean().expand_as(s), vh)


@merges_products(iso_c_product)
def iso_c(deltas: Tensor, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """Iso-C (arXiv 2502.04959, algorithm 1): Σ_i Δ_i with its singular values replaced by their mean.

    Null directions are excluded, also from the mean, so that the sum of the singular values is unchanged.
    """
    u, s, vh = _components(deltas.sum(0), min(deltas.shape[1:]), algebra)
    return times(s.mean() * u, vh)


def iso_cts(deltas: Tensor, common_fraction: float = 0.8, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """Iso-CTS (arXiv 2502.04959, algorithm 2): the common subspace of Σ_i Δ_i completed by task-specific ones.

    With r = min(m, n) and s = round((r − floor(common_fraction · r)) / T), at most r / T: the top r − T · s components
    U_c Σ_c V_cᵀ of Σ_i Δ_i and per task the top s components of Δ_i − U_c U_cᵀ Δ_i, side by side; both sides
    orthogonalized, every singular value replaced by the mean of all.

    Args:
        deltas: (T, m, n).
        common_fraction: the share of r that the common subspace takes, in [0, 1].
        algebra: how the decompositions are computed.
    """
    if not 0 <= common_fraction <= 1:
        raise UserError(f"common_fraction={common_fraction}: it is a share of the components; give a number in [0, 1]")
    tasks, full = len(deltas), min(deltas.shape[1:])
    specific = min(round((full - math.floor(common_fraction * full + 1e-9)) / tasks), full // tasks)
    common = _components(deltas.sum(0), full - tasks * specific, algebra)
    rest = algebra.truncated_svd(deltas - times(common.u, transposed_times(common.u, deltas)), specific)
    # the rest of a low-rank Δ_i outside the common part is rounding
    noise = max(deltas.shape[1:]) * torch.finfo(deltas.dtype).eps * deltas.flatten(1).norm(dim=1)
    parts = concatenate_factors(rest._replace(s=torch.where(rest.s > noise.unsqueeze(1), rest.s, 0))), common
    u, vh = torch.cat([part.u for part in parts], 1), torch.cat([part.vh for part in parts])
    s = torch.cat([part.s for part in parts])
    return decorrelate(LowRank(u, s.mean().expand_as(s), vh), algebra)


def _components(matrix: Tensor, k: int, algebra: Algebra) -> LowRank:
    """The top k singular components of a matrix without null directions."""
    return concatenate_factors(algebra.truncated_svd(matrix.unsqueeze(0), k))
