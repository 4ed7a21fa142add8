"""A merging method of ours: regression on both sides of every task matrix, with a nearly flat spectrum."""

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.fast import gram
from tsv_exp.linalg import Algebra, Exact


def iso_reg(deltas: Tensor, ridge: float = 0.1, *, algebra: Algebra = Exact()) -> Tensor:  # noqa: B008
    """Isotropic two-sided regression: do what each task does to its own inputs and outputs, all directions alike.

    A task's own matrix stands in for its data: D_i = Δ_i / ‖Δ_i‖. With G = Σ D_iᵀ D_i and F = Σ D_i D_iᵀ the
    least-squares solutions of Σ ‖(M − Δ_i) D_iᵀ‖² and Σ ‖D_iᵀ (M − Δ_i)‖² have R = Σ Δ_i D_iᵀ D_i in common. Where X is
    inverted, X⁺ = (X + ridge · mean eigenvalue of X · I)⁻¹:

        H = ½ (R G⁺ + F⁺ R),   S = H ((HᵀH)⁺)^½,   merged = S · ⟨S, H⟩ / ‖S‖²

    S is the polar factor of H but for its small singular values, which stay small; the scale is the one nearest to H.
    A task without change has no data and takes no part.

    Args:
        deltas: (T, m, n).
        ridge: what is added to each Gram matrix, as a share of its mean eigenvalue; positive.
        algebra: how the polar factor is computed.
    """
    if not ridge > 0:
        raise UserError(f"ridge={ridge}: it keeps the Gram matrices invertible; give a positive number, such as 0.1")
    _, m, n = deltas.shape
    if m < n:
        return iso_reg(deltas.mT, ridge, algebra=algebra).mT
    norms = torch.linalg.vector_norm(deltas, dim=(1, 2), dtype=torch.float64).to(deltas.dtype)
    changed = norms > 0
    if not changed.any():
        return torch.zeros_like(deltas[0])
    units, scale = deltas[changed].div_(norms[changed, None, None]), norms.max()  # squares stay in range
    outputs, inputs, moment = (units.new_zeros(shape) for shape in ((m, m), (n, n), (m, n)))
    for unit, weight in zip(units, (norms[changed] / scale).tolist(), strict=True):
        own = gram(unit)  # of the shorter side; it serves R too
        inputs += own
        outputs += gram(unit.mT)
        moment.addmm_(unit, own, alpha=weight)
    target = (_solve(inputs, moment.mT, ridge).mT + _solve(outputs, moment, ridge)) / 2
    # the polar factor of [H; √λ I] is [H; √λ I] (HᵀH + λ I)^(−½)
    margin = ridge**0.5 * target.norm() / target.shape[1] ** 0.5
    identity = torch.eye(target.shape[1], dtype=target.dtype, device=target.device)
    flat = algebra.polar(torch.cat([target, margin * identity]))[: len(target)]
    return flat * ((flat * target).sum() / flat.square().sum() * scale)


def _solve(matrix: Tensor, right: Tensor, ridge: float) -> Tensor:
    """(A + ridge · mean eigenvalue · I)⁻¹ B of a positive semi-definite A (n, n), which is changed, and B (n, k)."""
    matrix.diagonal().add_(ridge * matrix.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise UserError(
            f"ridge={ridge}: too small for {matrix.dtype} on task vectors of such low rank; give a larger one"
        )
    return torch.cholesky_solve(right, factor)
