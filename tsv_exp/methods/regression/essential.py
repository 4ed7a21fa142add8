"""Essential subspaces: components by what a task matrix does to the layer's inputs, not by its singular values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import eigh, independent, times, transposed_times
from tsv_exp.errors import UserError
from tsv_exp.methods.singular_vectors import tsv_m

_SCALE = 2.0  # of the merged matrix, in the authors' code


def essential_components(deltas: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """The principal directions of each task's change of the outputs, and their energies.

    The outputs Δ_t x of inputs with second moment A_t have the second moment Δ_t A_t Δ_tᵀ = U_t diag(λ_t) U_tᵀ.

    Args:
        deltas: (T, m, n).
        moments: (T, n, n).

    Returns:
        U (T, m, k) and λ (T, k), descending, k = floor(m / T), in float64; λ = 0 where it is within rounding of the
        moments.
    """
    tasks, m, n = deltas.shape
    wide = deltas.double()
    shifted = times(times(wide, moments.double()), wide.mT)
    values, vectors = eigh((shifted + shifted.mT) / 2)
    kept = values > max(m, n) * torch.finfo(moments.dtype).eps * values[:, -1:]
    top = slice(m - m // tasks, m)
    return vectors[..., top].flip(-1), torch.where(kept, values, 0)[:, top].flip(-1)


def esm(
    deltas: Tensor,
    moments: Tensor,
    power: float = 2.0,
    weighting: float = 0.15,
) -> Tensor:
    """Essential Subspace Merging (arXiv 2606.19164), as the authors' code computes it for vision transformers.

    With the components U_t (m, k) and λ_t of `essential_components`, w_t = (λ_t / mean λ_t)^weighting over its mean,
    polar(X) = P Qᵀ for the thin SVD X = P D Qᵀ, and mean(X) the mean of the singular values:

        U = [U_1 diag(w_1) … U_T diag(w_T)],  V_t = diag(w_t) U_tᵀ Δ_t · (‖Δ_t‖ / mean ‖Δ‖)^power,  V = [V_1; …; V_T]
        V_j ← V_j · (‖V_j‖ / mean ‖V_j‖)^power for every column j of V
        M = 2 · mean(U) polar(U) · mean(V) polar(V)

    `scale_layers` then scales the matrices of one kind by their norms. Null directions have no part in polar factors.

    Args:
        deltas: (T, m, n).
        moments: (T, n, n), the mean of x xᵀ over inputs x of each task's layer.
        power: of the ratios of norms, from 0 up.
        weighting: the exponent of the energies, from 0 up.
    """
    if not (power >= 0 and weighting >= 0):
        raise UserError(f"power={power}, weighting={weighting}: give exponents of at least 0")
    directions, energies = essential_components(deltas, moments)
    weights = _relative(energies, -1) ** weighting * (energies > 0)
    weights = _relative(weights, -1)
    norms = _relative(deltas.double().flatten(1).norm(dim=1), 0) ** power
    left = (directions * weights.unsqueeze(1)).transpose(0, 1).flatten(1)
    right = (transposed_times(directions, deltas.double()) * (weights * norms.unsqueeze(1)).unsqueeze(2)).flatten(0, 1)
    right = right * _relative(right.norm(dim=0), 0) ** power
    merged = _SCALE * times(_polarized(left, deltas.dtype), _polarized(right, deltas.dtype))
    return merged.to(deltas)


esm.uncaptured = tsv_m  # type: ignore[attr-defined]  # the code decomposes matrices without inputs as TSV-M does


def scale_layers(norms: Sequence[float]) -> list[float]:
    """The factors (‖M_l‖ / mean ‖M‖)² of the merged matrices of one kind, as the code of `esm` scales layers."""
    mean = sum(norms) / len(norms)
    return [(norm / mean) ** 2 if mean else 1.0 for norm in norms]


def _relative(values: Tensor, dim: int) -> Tensor:
    """Values over their mean along an axis; 0 where all are 0."""
    mean = values.mean(dim, keepdim=True)
    return values / torch.where(mean > 0, mean, torch.inf)


def _polarized(x: Tensor, given: torch.dtype) -> Tensor:
    """The polar factor of a matrix (m, n) times the mean of its min(m, n) singular values.

    Directions within rounding of the dtype in which the deltas were given are left out.
    """
    if not x.any():
        return torch.zeros_like(x)
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    kept = independent(values.to(given), *x.shape)
    return times(left[:, kept], right[kept]) * values.mean()
