"""Steps before a method's function: each changes the deltas (T, *shape) of a layer, or the factors of adapters."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, sum_svd
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.numerics import times
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.layer import matrices_only
from tsv_exp.methods.singular_vectors import tsv_c

__all__ = ["drop", "marchenko_pastur", "pico", "smooth", "truncate"]

_POINTS = 20_000  # of the integration of a density


def drop(deltas: Tensor, drop_rate: float = 0.9, seed: int = 0) -> Tensor:
    """Drop And REscale (DARE, arXiv 2311.03099): zero entries with probability p, divide the rest by 1 − p.

    The masks depend on the seed and on the layer's content, not on its place in the model: they are the same in every
    order of the layers, in every thread and on every device.

    Args:
        deltas: (T, *shape).
        drop_rate: p, in [0, 1).
        seed: of the masks.
    """
    if not 0 <= drop_rate < 1:
        raise UserError(f"drop_rate={drop_rate}: it is the probability of dropping an entry; give a number in [0, 1)")
    bits = deltas.view(torch.int64 if deltas.dtype == torch.float64 else torch.int32)
    generator = torch.Generator().manual_seed((int(bits.sum()) + seed) % 2**63)
    kept = torch.rand(deltas.shape, generator=generator, dtype=torch.float32) >= drop_rate
    return deltas * kept.to(deltas.device) / (1 - drop_rate)


@matrices_only
def truncate(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """The top k singular components of each Δ_i, as in TSV-Compress (arXiv 2412.00081, section 4.1).

    Args:
        deltas: (T, m, n).
        rank_fraction: k as a share of min(m, n); None is k = floor(min(m, n) / T).
        algebra: how the decomposition is computed.
    """
    return tsv_c(deltas, rank_fraction, algebra=algebra).dense()


@matrices_only
def smooth(deltas: Tensor, ratio: float = 5.0, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """Linear smoothing of DC-Merge (arXiv 2603.06242), which it applies to adapters: evenly spaced singular values.

    The r singular values of each Δ_i keep their sum and order, fall by equal steps, and the first is
    min(ratio, σ_1 / σ_r) times the last. With ratio = 1, the paper's averaging, they are equal, and what decomposes the
    result gets arbitrary directions of the task's space.

    Args:
        deltas: (T, m, n).
        ratio: ρ, from 1 up.
        algebra: how the decomposition is computed.
    """
    if not ratio >= 1:
        raise UserError(
            f"ratio={ratio}: it is the largest divided by the smallest singular value; give a number of at least 1"
        )
    u, s, vh = algebra.truncated_svd(deltas, min(deltas.shape[-2:]))
    even = torch.zeros_like(s)
    for line, values in zip(even, s, strict=True):
        if r := int((values > 0).sum()):
            first = min(ratio, float(values[0] / values[r - 1]))
            line[:r] = torch.linspace(first, 1, r, dtype=s.dtype, device=s.device)
            line *= values.sum() / line.sum()
    return times(u * even.unsqueeze(-2), vh)


def pico(factors: Sequence[LowRank], *, algebra: Algebra = ExactAlgebra()) -> list[LowRank]:  # noqa: B008
    """Pico's calibration (arXiv 2604.16826): weaken output directions that the B_i of several adapters share.

    B_i is S B_i with S = I − U diag(1 − α) Uᵀ, where [B_1 … B_T] = U Σ Vᵀ, s_j = σ_j² / Σ_k σ_k² and
    α_j = 1 / (1 + (T − 1) s_j). T counts the adapters that change the layer. The paper then scales the merge: step
    `mean_norm` of `after`.

    Args:
        factors: B_i (m, r_i), a scale that belongs to B_i (r_i,), and A_i (r_i, n).
        algebra: how the decomposition is computed.
    """
    sides = [u * s for u, s, _ in factors]
    together = torch.cat(sides, 1)
    u, s, _ = sum_svd(together.unsqueeze(0), min(together.shape), algebra)
    if not s.numel():
        return list(factors)
    tasks = sum(bool(side.any()) for side in sides)
    energies = (s / s[0]).square()
    lost = 1 - 1 / (1 + (tasks - 1) * energies / energies.sum())
    return [LowRank(b - (u * lost) @ (u.mT @ b), scale, a) for b, scale, a in factors]


@matrices_only
def marchenko_pastur(deltas: Tensor, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """The singular components of each Δ_i above the noise; its level is estimated from the median singular value.

    The singular values of an m × n matrix of independent entries of variance s² end at s (√m + √n), the edge of the
    Marchenko-Pastur distribution, and their median is s √(max(m, n) μ_β) with β = min(m, n) / max(m, n) and μ_β the
    median of that distribution (Gavish and Donoho, arXiv 1305.5870, section III.E). Kept are the components above
    the edge that belongs to the measured median: σ_j > median · (1 + √β) / √μ_β.

    Args:
        deltas: (T, m, n).
        algebra: how the decomposition is computed.
    """
    m, n = deltas.shape[-2:]
    u, s, vh = algebra.truncated_svd(deltas, min(m, n))
    beta = min(m, n) / max(m, n)
    full = torch.nn.functional.pad(s, (0, min(m, n) - s.shape[-1]))
    edge = full.quantile(0.5, dim=-1, keepdim=True) * ((1 + math.sqrt(beta)) / math.sqrt(marchenko_pastur_median(beta)))
    return times(u * (s * (s > edge)).unsqueeze(-2), vh)


@cache
def marchenko_pastur_median(beta: float) -> float:
    """The median of the Marchenko-Pastur distribution of variance 1 and ratio 0 < β ≤ 1.

    Its density is √((b − t)(t − a)) / (2π β t) between a, b = (1 ∓ √β)²; with t = a + (b − a) sin² φ it is smooth in φ.
    """
    low, width = (1 - math.sqrt(beta)) ** 2, 4 * math.sqrt(beta)
    step = math.pi / 2 / _POINTS
    angles = (torch.arange(_POINTS, dtype=torch.float64) + 0.5) * step
    squares = angles.sin().square()
    mass = squares * (1 - squares) / (low + width * squares)
    total = mass.cumsum(0) / mass.sum()
    i = int(torch.searchsorted(total, 0.5))
    before = float(total[i - 1])
    angle = (i + (0.5 - before) / (float(total[i]) - before)) * step
    return low + width * math.sin(angle) ** 2
