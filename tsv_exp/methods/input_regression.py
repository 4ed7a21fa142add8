"""Regression on inputs that the task matrices themselves stand in for: WUDI-Merging, its closed forms, ACTMat.

All of them minimize Σ_t w_t ‖(M − Δ_t) Δ_tᵀ‖²: the merged matrix M should respond to the rows of Δ_t, which lie among
task t's inputs, as Δ_t does. With A = Σ w_t Δ_tᵀ Δ_t and C = Σ w_t Δ_t Δ_tᵀ Δ_t the gradient is 2 (M A − C).
"""

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import gram
from tsv_exp.errors import UserError


def moments(deltas: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """A (n, n) and C (m, n) of deltas (T, m, n) in float64; w_t = ‖Δ_t‖⁻² with `normalize`, else 1."""
    _, m, n = deltas.shape
    inputs, target = (deltas.new_zeros(shape, dtype=torch.float64) for shape in ((n, n), (m, n)))
    for delta in deltas.double():
        norm = delta.norm() if normalize else delta.new_ones(())
        if norm > 0:
            own = gram(delta / norm)
            inputs += own
            target += delta @ own
    return inputs, target


def wudi(deltas: Tensor, iterations: int = 300, lr: float = 1e-5) -> Tensor:
    """WUDI-Merging (arXiv 2503.08099, algorithm 1): Adam from Σ_t Δ_t on Σ_t ‖(M − Δ_t) Δ_tᵀ‖² / ‖Δ_t‖².

    Args:
        deltas: (T, m, n).
        iterations: steps of Adam; the official code takes 300.
        lr: of Adam; the official code takes 1e-5.
    """
    inputs, target = (moment.to(deltas) for moment in moments(deltas, normalize=True))
    merged = deltas.sum(0)
    optimizer = torch.optim.Adam([merged], lr=lr)
    for _ in range(iterations):
        merged.grad = 2 * (merged @ inputs - target)
        optimizer.step()
    return merged.detach()


def wudi_closed(deltas: Tensor, ridge: float = 0.01, normalize: bool = True) -> Tensor:
    """The minimizer of WUDI-Merging's objective in closed form: C (A + ε I)⁻¹, ε = ridge · mean eigenvalue of A.

    With ridge = 0 it is C A⁺, without the null directions of A; with w_t = 1 as well it is ACTMat (arXiv 2604.01329).

    Args:
        deltas: (T, m, n).
        ridge: ε as a share of A's mean eigenvalue, from 0 up.
        normalize: w_t = ‖Δ_t‖⁻² instead of 1.
    """
    if not ridge >= 0:
        raise UserError(f"ridge={ridge}: it is added to the eigenvalues of a Gram matrix; give a number from 0 up")
    inputs, target = moments(deltas, normalize)
    values, vectors = torch.linalg.eigh(inputs)
    size, eps = max(deltas.shape[1:]), torch.finfo(deltas.dtype).eps
    # σ_j ≤ max(m, n) · eps · σ_1 is a null direction of the task matrices; eigenvalues are squares
    rounding = max((size * eps) ** 2, size * torch.finfo(torch.float64).eps)
    kept = values > rounding * values[-1]
    inverse = torch.where(kept, values + ridge * values.mean(), torch.inf).reciprocal()
    return ((target @ vectors) * inverse @ vectors.mT).to(deltas)
