"""Task Singular Vectors (arXiv 2412.00081): TSV-Compress, TSV-Merge and its variants."""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, factors_suffice, merges_products
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.numerics import eigh, gram, times
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank


def components_per_task(shape: Sequence[int], tasks: int, rank_fraction: float | None = None) -> int:
    """The components k kept per task: floor(min(m, n) / T), or the share rank_fraction of min(m, n), at least 1."""
    full = min(shape)
    if rank_fraction is None:
        return full // tasks
    if not isinstance(rank_fraction, Real) or not 0 < rank_fraction <= 1:
        raise UserError(
            f"rank_fraction={rank_fraction}: it is a share of the singular components; give a number in (0, 1]"
        )
    return min(full, max(1, math.floor(rank_fraction * full + 1e-9)))


@factors_suffice
def tsv_c(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = ExactAlgebra()) -> LowRank:  # noqa: B008
    """TSV-Compress (arXiv 2412.00081, section 4.1): the top k singular components of each Δ_i.

    Args:
        deltas: (T, m, n).
        rank_fraction: k as a share of min(m, n); None is k = floor(min(m, n) / T).
        algebra: how the decomposition is computed.
    """
    return algebra.truncated_svd(deltas, components_per_task(deltas.shape[1:], len(deltas), rank_fraction))


def tsv_m_product(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra) -> LowRank:
    """`tsv_m` as factors (m, K), (K,), (K, n), K ≤ T · k: the merge of low-rank task matrices has low rank."""
    left, inner, right = _decorrelated(concatenate_factors(tsv_c(deltas, rank_fraction, algebra=algebra)), algebra)
    return LowRank(times(left, inner), inner.new_ones(inner.shape[1]), right)


@merges_products(tsv_m_product)
@factors_suffice
def tsv_m(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """TSV-Merge (arXiv 2412.00081, algorithm 1): truncate, concatenate, orthogonalize both sides, multiply.

    With the top k components Δ_i ≈ U_i Σ_i V_iᵀ of every task, U = [U_1 … U_T], V = [V_1 … V_T] and
    polar(X) = P Qᵀ for the thin SVD X = P D Qᵀ, the nearest matrix with orthonormal columns:

        merged = polar(U) · diag(Σ_1 … Σ_T) · polar(V)ᵀ

    Args:
        deltas: (T, m, n).
        rank_fraction: k as a share of min(m, n); None is k = floor(min(m, n) / T).
        algebra: how the decompositions are computed.
    """
    return decorrelate(concatenate_factors(tsv_c(deltas, rank_fraction, algebra=algebra)), algebra)


def concatenate_factors(factors: LowRank) -> LowRank:
    """The factors of T tasks side by side without null directions: (m, K), (K,), (K, n) with K ≤ T · k."""
    kept = factors.s.flatten().nonzero().flatten()
    u = factors.u.transpose(0, 1).flatten(1)
    return LowRank(u.index_select(1, kept), factors.s.flatten()[kept], factors.vh.flatten(0, 1)[kept])


def decorrelate(factors: LowRank, algebra: Algebra) -> Tensor:
    """polar(u) · diag(s) · polar(vh) (m, n) of the factors of all tasks side by side."""
    left, inner, right = _decorrelated(factors, algebra)
    if len(left) < right.shape[1]:  # the order that takes the least work
        return times(times(left, inner), right)
    return times(left, times(inner, right))


def _decorrelated(factors: LowRank, algebra: Algebra) -> tuple[Tensor, Tensor, Tensor]:
    """The factors (m, p), (p, q) and (q, n) of that product, with the ranks p and q of the polar factors."""
    left, right = algebra.polar(factors.u), algebra.polar(factors.vh)
    return left.u, times(left.s.unsqueeze(1) * left.vh * factors.s, right.u * right.s), right.vh


@factors_suffice
def tsv_m_eigen(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """TSV-M (arXiv 2412.00081) with polar(X) = X (XᵀX)^(−1/2) from an eigendecomposition of the Gram matrix in float64.

    The second variant of the official code, which computes in float32 and keeps null directions.
    """
    u, s, vh = concatenate_factors(tsv_c(deltas, rank_fraction, algebra=algebra))
    return times(gram_polar(u) * s, gram_polar(vh))


def gram_polar(x: Tensor) -> Tensor:
    """The polar factor of a matrix (m, n), without null directions."""
    if not x.numel():
        return x
    if x.shape[0] < x.shape[1]:
        return gram_polar(x.mT).mT
    values, vectors = eigh(gram(x, torch.float64))
    # σ_j ≤ max(m, n) · eps · σ_1 as everywhere, or what float64 cannot tell from 0 after squaring
    size, eps = max(x.shape), torch.finfo(x.dtype).eps
    kept = values > max((size * eps) ** 2, size * torch.finfo(torch.float64).eps) * values[-1]
    inverse_roots = torch.where(kept, values, torch.inf).rsqrt()
    return times(times(x, vectors * inverse_roots), vectors.mT).to(x.dtype)


@factors_suffice
def truncated_sum(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """TSV-M without orthogonalization (arXiv 2412.00081, section 6.1): Σ_i of the top k singular components of Δ_i."""
    return tsv_c(deltas, rank_fraction, algebra=algebra).dense().sum(0)


def cart(
    deltas: Tensor,
    rank_fraction: float = 0.12,
    lambda_: float = 2.0,
    *,
    algebra: Algebra = ExactAlgebra(),  # noqa: B008
) -> Tensor:
    """CART (arXiv 2412.12153): the mean of the models, plus low-rank task arithmetic around it.

    With the mean Δ̄ of the Δ_i: Δ̄ + λ Σ_i SVD_k(Δ_i − Δ̄), where SVD_k keeps the top k = max(1, floor(rank_fraction ·
    min(m, n))) singular components. Of all components the sum would be 0.

    Args:
        deltas: (T, m, n).
        rank_fraction: k as a share of min(m, n).
        lambda_: λ.
        algebra: how the decompositions are computed.
    """
    mean = deltas.mean(0)
    return mean + lambda_ * tsv_c(deltas - mean, rank_fraction, algebra=algebra).dense().sum(0)
