"""white_reg, a method of this project: regression on one side of every task matrix, whitened on the other side."""

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import gram
from tsv_exp.methods.regression.iso_reg import solve, unit_deltas

_REST = 1e-4  # share of the squared norm of a low-rank task matrix that a quarter of its components may leave out


def white_reg(deltas: Tensor, ridge: float = 0.1) -> Tensor:
    """Whitened regression: fit each task on its own inputs, then divide output directions by how much tasks use them.

    A task's own matrix stands in for its data: D_i = Δ_i / ‖Δ_i‖ (m × n, m outputs). With G = Σ D_iᵀ D_i,
    F = Σ D_i D_iᵀ, R = Σ Δ_i D_iᵀ D_i, λ = ridge · T, and Q an orthonormal basis of the columns of K:

        K = (R + λ/n · Σ Δ_i) (G + λ/n · I)⁻¹      minimizes Σ ‖(M − Δ_i) D_iᵀ‖² + λ/n · ‖M − Σ Δ_i‖²
        W = Q (Qᵀ F Q + λ/m · I)^(−½) Qᵀ K,   merged = W · ‖K‖ / ‖W‖

    T/n and T/m are the mean eigenvalues of G and F. If m ≤ n and K has full rank, W is (F + λ/m · I)^(−½) K.
    A task with Δ_i = 0 is ignored.

    Low-rank task matrices Δ_i = B_i A_i are those of adapters. Their rows lie in the span of A_i, which is random at
    the start of the training, so they say little of the inputs. Where all task matrices of a layer have low rank (a
    quarter of their singular components holds 99.99 % of the squared norm), the sides change places: the result is the
    transpose of the above for the Δ_iᵀ, with the power −¼ of the whitening, because flat spectra cost accuracy there.

    Args:
        deltas: (T, m, n).
        ridge: what is added to each Gram matrix, as a share of its mean eigenvalue; positive.
    """
    units, weights, scale = unit_deltas(deltas, ridge)
    if not len(units):
        return torch.zeros_like(deltas[0])
    if all(_has_low_rank(unit) for unit in units):
        return _whitened(units.mT, weights, ridge, 0.25).mT * scale
    return _whitened(units, weights, ridge, 0.5) * scale


def _has_low_rank(unit: Tensor) -> bool:
    values = torch.linalg.eigvalsh(gram(unit if unit.shape[0] > unit.shape[1] else unit.mT))
    return bool(values[: len(values) - len(values) // 4].sum() < _REST)


def _whitened(units: Tensor, weights: list[float], ridge: float, power: float) -> Tensor:
    """The merged matrix (m, n) for D_i (T, m, n) and Δ_i = weights_i D_i; the whitening has the power −`power`."""
    _, m, n = units.shape
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
    white = vectors @ ((vectors.mT @ fitted) * (values.clamp_min(0) + shift / m).pow(-power)[:, None])
    white *= fitted.norm() / white.norm()
    return basis @ white if m > n else white
