"""Steps after a method's function: each changes the merged layer (*shape), given the models' own deltas (T, *shape)."""

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, sum_svd
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.numerics import times, transposed_times
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.layer import matrices_only

__all__ = ["flatten", "mean_norm", "subspace_boosting", "svc"]


@matrices_only
def svc(merged: Tensor, deltas: Tensor, floor: float = 1.0, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """Singular Value Calibration (SVC, arXiv 2602.05536): divide what several tasks add to the same direction.

    For M = Σ_r σ_r u_r v_rᵀ and a_i = u_rᵀ Δ_i: s_i = ⟨u_rᵀ M, a_i⟩ / ‖a_i‖² says how much of M in this direction is
    task i's, and σ_r is divided by the mean over the tasks of max(floor, s_i), as in the authors' code.

    The scale of M matters: floor 1 is for merges at the scale of a sum (task arithmetic, TSV-M, Iso-C); for a mean of T
    tasks the same calibration has floor 1/T. s_i is 0 where a_i is only rounding of Δ_i.

    Args:
        merged: M (m, n).
        deltas: (T, m, n).
        floor: a, the least s_i that counts; positive.
        algebra: how the decomposition is computed.
    """
    if not floor > 0:
        raise UserError(f"floor={floor}: it is the smallest divisor of singular values; give a positive number")
    u, s, vh = _components(merged, algebra)
    own = transposed_times(u, deltas)  # (T, r, n)
    norms = torch.linalg.vector_norm(own, dim=-1)
    noise = max(merged.shape) * torch.finfo(deltas.dtype).eps * deltas.flatten(1).norm(dim=1)
    shares = s * (own * vh).sum(-1) / norms.square()
    factors = torch.where(norms > noise.unsqueeze(1), shares, 0).clamp(min=floor).mean(0)
    return times(u * (s / factors), vh)


@matrices_only
def subspace_boosting(
    merged: Tensor, deltas: Tensor, beta: float = 0.01, *, algebra: Algebra = ExactAlgebra()  # noqa: B008
) -> Tensor:  # fmt: skip
    """Subspace Boosting (arXiv 2506.16506): raise small singular values of M to the one at a share of their sum.

    σ_j becomes max(σ_j, σ_c), where c is the first index with Σ_{j ≤ c} σ_j ≥ beta · Σ σ_j. Null directions stay out;
    the official code raises them too, whatever vectors its library returns for them.

    Args:
        merged: M (m, n).
        deltas: (T, m, n); not used.
        beta: the share of the sum of the singular values, in [0, 1].
        algebra: how the decomposition is computed.
    """
    if not 0 <= beta <= 1:
        raise UserError(f"beta={beta}: it is a share of the sum of the singular values; give a number in [0, 1]")
    u, s, vh = _components(merged, algebra)
    if not s.numel():
        return merged
    sums = s.cumsum(0, dtype=torch.float64)
    reached = (sums >= beta * sums[-1]).nonzero()[0]
    return times(u * s.clamp(min=s[reached]), vh)


@matrices_only
def flatten(merged: Tensor, deltas: Tensor, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """Replace the singular values of M by their mean, as Iso-C does (arXiv 2502.04959, algorithm 1).

    Args:
        merged: M (m, n).
        deltas: (T, m, n); not used.
        algebra: how the decomposition is computed.
    """
    u, s, vh = _components(merged, algebra)
    return times(s.mean() * u, vh) if s.numel() else merged


@matrices_only
def mean_norm(merged: Tensor, deltas: Tensor) -> Tensor:
    """Give M the mean Frobenius norm of the task matrices that are not zero, as Pico does (arXiv 2604.16826).

    M stays as it is where it is only rounding, as the sum of opposed task matrices.

    Args:
        merged: M (m, n).
        deltas: (T, m, n).
    """
    norms = torch.linalg.vector_norm(deltas, dim=(1, 2))
    size = torch.linalg.vector_norm(merged)
    noise = max(merged.shape) * torch.finfo(deltas.dtype).eps * norms.sum()
    return merged * (norms.sum() / norms.count_nonzero() / size) if size > noise else merged


def _components(merged: Tensor, algebra: Algebra) -> LowRank:
    """The singular components (m, K), (K,), (K, n) of a matrix without null directions."""
    return sum_svd(merged.unsqueeze(0), min(merged.shape), algebra)
