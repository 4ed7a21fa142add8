"""DC-Merge (arXiv 2603.06242): merging in the space that the tasks' singular vectors cover, entry by entry."""

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, factors_suffice
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.numerics import times, transposed_times
from tsv_exp.errors import UserError
from tsv_exp.methods.singular_vectors import concatenate_factors, tsv_c


@factors_suffice
def dc_merge(deltas: Tensor, density: float = 1e-3, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """DC-Merge (arXiv 2603.06242) for full fine-tuning: aggregate the task matrices in a shared orthonormal basis.

    With the top k = floor(min(m, n) / T) components Δ_t ≈ U_t Σ_t V_tᵀ, U = polar[U_1 … U_T] and V likewise:
    M_t = Uᵀ U_t Σ_t V_tᵀ V keeps its max(1, floor(density · K²)) largest entries (K columns of U); M is, per entry, the
    mean of those M_t whose sign is that of Σ M_t, and zero outside the T diagonal blocks; merged = U M Vᵀ.

    Null directions are left out of U and V; the official code fills min(m, n) − T · k columns with arbitrary ones.

    Args:
        deltas: (T, m, n).
        density: the share of the entries of each M_t that stays, in (0, 1].
        algebra: how the decompositions are computed.
    """
    if not 0 < density <= 1:
        raise UserError(f"density={density}: it is the share of entries that is kept; give a number in (0, 1]")
    factors = tsv_c(deltas, algebra=algebra)
    side_by_side = concatenate_factors(factors)
    if not side_by_side.s.numel():
        return factors.u.new_zeros(deltas.shape[1:])
    left, right = algebra.polar(side_by_side.u).dense(), algebra.polar(side_by_side.vh).dense()
    size = len(side_by_side.s)
    block = torch.repeat_interleave(torch.arange(len(factors.s)), (factors.s != 0).sum(1).cpu()).to(left.device)
    total, agreeing, count = (left.new_zeros(size, size) for _ in range(3))
    # block_i holds the columns of task i: M_i = (Uᵀ U_i Σ_i) (V_iᵀ V)
    outer, inner = transposed_times(left, side_by_side.u) * side_by_side.s, times(side_by_side.vh, right.mT)
    aligned = [_largest(times(outer[:, block == i], inner[block == i]), density) for i in block.unique().tolist()]
    for matrix in aligned:
        total += matrix
    for matrix in aligned:
        same = (matrix.sign() == total.sign()) & (matrix != 0)
        agreeing += matrix * same
        count += same
    merged = agreeing / count.clamp(min=1) * (block.unsqueeze(1) == block)
    return times(times(left, merged), right)


def _largest(matrix: Tensor, density: float) -> Tensor:
    """The matrix with its max(1, floor(density · entries)) entries of largest magnitude; the others are zero.

    Entries within rounding of the smallest of them stay too: equal tasks have equal entries, of which rounding would
    choose one. Entries within rounding of 0 do not count as agreeing with a sign.
    """
    magnitudes = matrix.abs()
    largest = magnitudes.flatten().topk(max(1, int(density * matrix.numel() + 1e-9))).values
    rounding = len(matrix) * torch.finfo(matrix.dtype).eps * largest[0]
    return matrix * (magnitudes >= torch.maximum(largest[-1] - rounding, rounding))
