"""white_reg, a method of this project: regression on one side of every task matrix, whitened on the other side."""

from dataclasses import replace

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import add_gram, eigh, gram, times, transposed_times
from tsv_exp.methods.regression.iso_reg import Units, column_basis, solve, unit_deltas

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
    It is divided by √T: such matrices hardly overlap, so that K, like their sum, has √T times the norm of one of them,
    and the best α would fall with the number of tasks to the first values of its grid.

    Args:
        deltas: (T, m, n).
        ridge: what is added to each Gram matrix, as a share of its mean eigenvalue; positive.
    """
    units = unit_deltas(deltas, ridge)
    tasks = len(units.sizes)
    if not tasks:
        return torch.zeros_like(deltas[0])
    weights = deltas.new_tensor([share / size for _, size, share in units])
    total = (weights @ units.stored.flatten(1)).view(deltas.shape[1:])
    wide = deltas.shape[1] < deltas.shape[2]
    units, total = (replace(units, stored=units.stored.mT), total.mT) if wide else (units, total)
    moment = total.new_zeros(total.shape)  # whatever the strides of total
    short = deltas.new_zeros((total.shape[1],) * 2)
    low_rank = True
    for stored, size, share in units:
        own = gram(stored).div_(size**2)
        short += own
        moment.add_(times(stored, own), alpha=share / size)
        low_rank = low_rank and _has_low_rank(own)
    # inputs are the short side of tall matrices, outputs that of wide ones
    fit = _fit_on_short_side if wide == low_rank else _fit_on_long_side
    power, scale = (-0.25, units.scale / tasks**0.5) if low_rank else (-0.5, units.scale)
    merged = fit(units, short, moment, total, ridge * tasks, power) * scale
    return merged.mT if wide else merged


def _has_low_rank(own: Tensor) -> bool:
    """Whether a quarter of the components of a matrix of norm 1 is nearly all of it; `own` is its Gram matrix."""
    kept = len(own) // 4
    # the eigenvalues of a part are at most those of the whole (interlacing), and take an eighth of the time
    return all(torch.linalg.eigvalsh(part)[: len(part) - kept].sum() < _REST for part in (own[::2, ::2], own))


def _fit_on_short_side(
    units: Units, short: Tensor, moment: Tensor, total: Tensor, shift: float, power: float
) -> Tensor:
    """W ‖K‖ / ‖W‖ (m, n), m ≥ n, for D_i (m, n), G = Σ D_iᵀ D_i, R and Σ Δ_i; F to `power` in the columns of K."""
    m, n = total.shape
    fitted = solve(short, shift / n, moment.add_(total, alpha=shift / n).mT).mT
    basis, triangle = column_basis(fitted)
    long = short.new_zeros(len(triangle), len(triangle))
    for stored, size, _ in units:
        add_gram(long, transposed_times(stored, basis), size**-2)
    white = times(_power(long, shift / m, power), triangle)
    return times(basis, white * (triangle.norm() / white.norm()))


def _fit_on_long_side(units: Units, short: Tensor, moment: Tensor, total: Tensor, shift: float, power: float) -> Tensor:
    """The same for the transposes of all matrices: K = (F + shift/m · I)⁻¹ (R + shift/m · Σ Δ_i), and G to `power`."""
    m, n = total.shape
    long = total.new_zeros(m, m)
    for stored, size, _ in units:
        add_gram(long, stored.mT, size**-2)
    fitted = solve(long, shift / m, moment.add_(total, alpha=shift / m))
    white = times(fitted, _power(short, shift / n, power))
    return white * (fitted.norm() / white.norm())


def _power(matrix: Tensor, shift: float, exponent: float) -> Tensor:
    """(A + shift · I)^exponent of a positive semi-definite A (n, n), of which the upper triangle is read."""
    values, vectors = eigh(matrix, "U")
    return times(vectors * (values.clamp_min(0) + shift).pow(exponent), vectors.mT)
