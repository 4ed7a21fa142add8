"""white_reg, a method of this project: regression on the inputs of every task matrix, whitened on the output side."""

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import gram
from tsv_exp.methods.regression.iso_reg import solve, unit_deltas


def white_reg(deltas: Tensor, ridge: float = 0.1) -> Tensor:
    """Whitened regression: fit each task on its own inputs, then divide output directions by how much tasks use them.

    A task's own matrix stands in for its data: D_i = Δ_i / ‖Δ_i‖ (m × n, m outputs). With G = Σ D_iᵀ D_i,
    F = Σ D_i D_iᵀ, R = Σ Δ_i D_iᵀ D_i, λ = ridge · T, and Q an orthonormal basis of the columns of K:

        K = (R + λ/n · Σ Δ_i) (G + λ/n · I)⁻¹      minimizes Σ ‖(M − Δ_i) D_iᵀ‖² + λ/n · ‖M − Σ Δ_i‖²
        W = Q (Qᵀ F Q + λ/m · I)^(−½) Qᵀ K,   merged = W · ‖K‖ / ‖W‖

    T/n and T/m are the mean eigenvalues of G and F. If m ≤ n and K has full rank, W is (F + λ/m · I)^(−½) K.
    A task with Δ_i = 0 is ignored.

    Args:
        deltas: (T, m, n).
        ridge: what is added to each Gram matrix, as a share of its mean eigenvalue; positive.
    """
    _, m, n = deltas.shape
    units, weights, scale = unit_deltas(deltas, ridge)
    if not len(units):
        return torch.zeros_like(deltas[0])
    shift = ridge * len(units)
    outputs, moment = (units.new_zeros(shape) for shape in ((min(m, n),) * 2, (m, n)))
    inputs = units.new_zeros(n, n) if m > n else gram(units.flatten(0, 1))
    for unit, weight in zip(units, weights, strict=True):
        own = gram(unit if m > n else unit.mT)
        if m > n:
            inputs += own
            moment.addmm_(unit, own, alpha=weight)
        else:
            outputs += own
            moment.addmm_(own, unit, alpha=weight)
        moment.add_(unit, alpha=weight * shift / n)
    fitted = solve(inputs, shift / n, moment.mT).mT
    if m > n:
        basis, fitted = torch.linalg.qr(fitted)
        for unit in units:
            outputs += gram(unit.mT @ basis)
    values, vectors = torch.linalg.eigh(outputs)
    white = vectors @ ((vectors.mT @ fitted) / (values.clamp_min(0) + shift / m).sqrt()[:, None])
    white *= fitted.norm() / white.norm() * scale
    return basis @ white if m > n else white
