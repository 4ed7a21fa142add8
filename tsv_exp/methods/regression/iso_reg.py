"""iso_reg, a method of this project: regression on both sides of every task matrix, with a nearly flat spectrum."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsv_exp.decompositions import cholesky
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.numerics import add_gram, gram, moderate, qr, times, transposed_times
from tsv_exp.errors import UserError


def iso_reg(deltas: Tensor, ridge: float = 0.1, *, algebra: Algebra = ExactAlgebra()) -> Tensor:  # noqa: B008
    """Isotropic two-sided regression: fit each task on its own inputs and outputs, with nearly equal singular values.

    A task's own matrix stands in for its data: D_i = Δ_i / ‖Δ_i‖. Let m ≥ n (else all is transposed), G = Σ D_iᵀ D_i,
    F = Σ D_i D_iᵀ, R = Σ Δ_i D_iᵀ D_i and Q an orthonormal basis of the columns of R. The least-squares solutions of
    Σ ‖(M − Δ_i) D_iᵀ‖² and, among the M = Q X, of Σ ‖D_iᵀ (M − Δ_i)‖² have a mean H, whose spectrum is flattened:

        H = ½ (R (G + λ/n · I)⁻¹ + Q (Qᵀ F Q + λ/m · I)⁻¹ Qᵀ R),   λ = ridge · T
        S = H (Hᵀ H + ridge · ‖H‖²/n · I)^(−½),   merged = S · ⟨S, H⟩ / ‖S‖²

    T/n and T/m are the mean eigenvalues of G and F. S is the polar factor of H, except that small
    singular values stay small; the scale minimizes the distance to H. A task with Δ_i = 0 is ignored.

    Args:
        deltas: (T, m, n).
        ridge: what is added to each matrix that is inverted, as a share of its mean eigenvalue; positive.
        algebra: how the polar factor is computed.
    """
    _, m, n = deltas.shape
    if m < n:
        return iso_reg(deltas.mT, ridge, algebra=algebra).mT
    units = unit_deltas(deltas, ridge)
    if not units.sizes:
        return torch.zeros_like(deltas[0])
    inputs, moment = deltas.new_zeros(n, n), deltas.new_zeros(m, n)
    for stored, size, share in units:
        own = gram(stored).div_(size**2)
        inputs += own
        moment.add_(times(stored, own), alpha=share / size)
    basis, triangle = column_basis(moment)
    outputs = deltas.new_zeros(len(triangle), len(triangle))
    for stored, size, _ in units:
        add_gram(outputs, transposed_times(stored, basis), size**-2)
    margin = ridge * len(units.sizes)
    target = (solve(inputs, margin / n, moment.mT).mT + times(basis, solve(outputs, margin / m, triangle))) / 2
    # the polar factor of [H; √λ I] is [H; √λ I] (HᵀH + λ I)^(−½)
    corner = torch.eye(n, dtype=target.dtype, device=target.device) * ((ridge / n) ** 0.5 * target.norm())
    factors = algebra.polar(torch.cat([target, corner]))
    flat = factors._replace(u=factors.u[:m]).dense()
    return flat * ((flat * target).sum() / flat.square().sum() * units.scale)


@dataclass(frozen=True)
class Units:
    """D_i = Δ_i / ‖Δ_i‖ of the tasks that changed a layer: D_i = stored_i / size_i, Δ_i = scale · share_i · D_i.

    Iteration gives stored_i (m, n), size_i and share_i of each task. Deltas are stored as they are, since copies of all
    of them take long, unless squares would be out of range.
    """

    stored: Tensor
    sizes: Sequence[float]
    shares: Sequence[float]
    scale: Tensor

    def __iter__(self) -> Iterator[tuple[Tensor, float, float]]:
        return zip(self.stored, self.sizes, self.shares, strict=True)


def unit_deltas(deltas: Tensor, ridge: float) -> Units:
    """The D_i of deltas (T, m, n).

    Raises:
        UserError: the ridge is not positive and finite.
    """
    if not 0 < ridge < math.inf:
        raise UserError(f"ridge={ridge}: it keeps the Gram matrices invertible; give a positive number, such as 0.1")
    # one by one: torch copies what it reduces along dimensions in another dtype
    norms = torch.stack([torch.linalg.vector_norm(delta, dtype=torch.float64) for delta in deltas]).to(deltas.dtype)
    changed, scale = norms > 0, norms.max()
    kept, norms = (deltas, norms) if changed.all() else (deltas[changed], norms[changed])
    shares = (norms / scale).tolist()
    if moderate(norms):
        return Units(kept, norms.tolist(), shares, scale)
    return Units(kept / norms[:, None, None], [1.0] * len(kept), shares, scale)


def column_basis(x: Tensor) -> tuple[Tensor, Tensor]:
    """Q (m, k) with orthonormal columns and Y (k, n), X = Q Y, of X (m, n) with k columns that are not 0, m ≥ n.

    Columns of zeros, as of inputs that are always 0, would add arbitrary directions to Q.
    """
    used = x.any(0)
    if used.all():
        return qr(x)
    basis, triangle = qr(x[:, used])
    wide = x.new_zeros(len(triangle), x.shape[1])
    wide[:, used] = triangle
    return basis, wide


def solve(matrix: Tensor, shift: float, right: Tensor) -> Tensor:
    """(A + shift · I)⁻¹ B of a positive semi-definite A (n, n), which is changed, and B (n, k)."""
    matrix.diagonal().add_(shift)
    found = cholesky.solve(matrix, right)
    if found is None:
        raise UserError(
            f"the ridge is too small for {matrix.dtype} on task vectors of such low rank; give a larger one"
        )
    return found
