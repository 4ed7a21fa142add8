"""Regression on inputs that the task matrices themselves stand in for: WUDI-Merging, its closed forms, ACTMat, ACE.

All of them minimize Σ_t w_t ‖(M − Δ_t) Δ_tᵀ‖²: the merged matrix M should respond to the rows of Δ_t, which lie among
task t's inputs, as Δ_t does. With A = Σ w_t Δ_tᵀ Δ_t and C = Σ w_t Δ_t Δ_tᵀ Δ_t the gradient is 2 (M A − C).
"""

import math

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, sum_svd
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.numerics import eigh, gram, times
from tsv_exp.errors import UserError

_TINY = 1e-12  # of the official code: keeps the trace of a task without changes between its rows from being 0


def moments(deltas: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """A (n, n) and C (m, n) of deltas (T, m, n) in float64; w_t = ‖Δ_t‖⁻² with `normalize`, else 1."""
    _, m, n = deltas.shape
    inputs, target = (deltas.new_zeros(shape, dtype=torch.float64) for shape in ((n, n), (m, n)))
    for delta in deltas.double():
        norm = delta.norm() if normalize else delta.new_ones(())
        if norm > 0:
            own = gram(delta / norm)
            inputs += own
            target += times(delta, own)
    return inputs, target


def wudi(deltas: Tensor, iterations: int = 300, lr: float = 1e-5) -> Tensor:
    """WUDI-Merging (arXiv 2503.08099, algorithm 1): Adam from Σ_t Δ_t on Σ_t ‖(M − Δ_t) Δ_tᵀ‖² / ‖Δ_t‖².

    Args:
        deltas: (T, m, n).
        iterations: steps of Adam; the official code takes 300.
        lr: of Adam; the official code takes 1e-5.
    """
    if not (iterations >= 0 and 0 < lr < math.inf):
        raise UserError(f"iterations={iterations}, lr={lr}: give iterations of at least 0 and a positive lr")
    inputs, target = (moment.to(deltas) for moment in moments(deltas, normalize=True))
    merged = deltas.sum(0)
    optimizer = torch.optim.Adam([merged], lr=lr)
    for _ in range(iterations):
        merged.grad = 2 * (times(merged, inputs) - target)
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
    if not 0 <= ridge < math.inf:
        raise UserError(f"ridge={ridge}: it is added to the eigenvalues of a Gram matrix; give a number of at least 0")
    target, values, vectors, known = _spectrum(deltas, normalize)
    inverse = torch.where(known, (values + ridge * values.mean()).reciprocal(), 0)
    return times(times(target, vectors) * inverse, vectors.mT).to(deltas)


def swudi(deltas: Tensor, time: float | None = 1300.0, rank_fraction: float | None = 0.65) -> Tensor:
    """SWUDI and its adaptive variant (arXiv 2606.07289): Θ + (C A⁺ − Θ) f(A), from the sum Θ = Σ_t Δ_t on.

    f(λ) = 1 − e^{−sλ} for the K largest eigenvalues of A, else 0; w_t = ‖Δ_t‖⁻². With K = n this is where gradient flow
    on WUDI-Merging's objective is after the time s.

    Args:
        deltas: (T, m, n).
        time: s, positive; A has trace T whatever the scale of the deltas. None: without end, f(λ) = 1.
        rank_fraction: K = ⌈rank_fraction · n⌉, in (0, 1]. None: K = ⌈(Σ √λ)² / Σ λ⌉, by layer.
    """
    if not ((time is None or time > 0) and (rank_fraction is None or 0 < rank_fraction <= 1)):
        raise UserError(f"time={time}, rank_fraction={rank_fraction}: give time > 0 and rank_fraction in (0, 1]")
    target, values, vectors, known = _spectrum(deltas, normalize=True)
    count = _participants(values * known) if rank_fraction is None else len(values) * rank_fraction
    kept = known & (torch.arange(len(values), 0, -1, device=values.device) <= math.ceil(count - 1e-9))
    reached = kept if time is None else kept * -torch.expm1(-time * values)
    start = deltas.sum(0).to(target)
    change = times(target, vectors) / torch.where(kept, values, 1) - times(start, vectors)
    return (start + times(change * reached, vectors.mT)).to(deltas)


def _participants(values: Tensor) -> float:
    """(Σ √λ)² / Σ λ of eigenvalues (n,): n where all are equal, 1 where one is not 0."""
    return float(values.sqrt().sum().square() / values.sum().clamp(min=torch.finfo(values.dtype).tiny))


def _spectrum(deltas: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """C (m, n), A's eigenvalues (n,), the smallest first, its eigenvectors, and which are not A's null directions."""
    inputs, target = moments(deltas, normalize)
    values, vectors = eigh(inputs)
    size, eps = max(deltas.shape[1:]), torch.finfo(deltas.dtype).eps
    # σ_j ≤ max(m, n) · eps · σ_1 is a null direction of the task matrices; eigenvalues are squares
    known = values > max((size * eps) ** 2, size * torch.finfo(torch.float64).eps) * values[-1]
    return target, values, vectors, known


def ace(
    deltas: Tensor,
    epsilon: float = 0.01,
    heterogeneity: float = 0.3,
    refined: float = 0.3,
    *,
    algebra: Algebra = ExactAlgebra(),  # noqa: B008
) -> Tensor:
    """ACE-Merging (arXiv 2603.02945), as the authors' code computes it.

    With D_t = Δ_t without the mean of its rows, S_t = D_tᵀ D_t and c the row of column means of Σ S_t:

        M = Σ D_t (S_t + ε I) · (Σ (S_t + ε I) + 1 c)⁻¹

    A layer is heterogeneous if Var(log ‖Δ_t‖²) > heterogeneity · mean(log ‖Δ_t‖²)². There S_t and its ε are divided by
    ‖D_t‖², c by the mean of ‖Δ_t‖², and σ̄ U_k V_kᵀ is added to M: the top k = floor(refined · min(m, n)) singular
    components of M + Σ Δ_t (S_t − 1/T Σ (S_t + ε I)), with the mean σ̄ of their values in place of each.

    ε, the mean of logarithms and the weight of c depend on the scale of the weights. A task with Δ_t = 0 is left out;
    the official code regularizes it by ε / 10⁻¹², which undoes the merge of a heterogeneous layer.

    Args:
        deltas: (T, m, n).
        epsilon: ε, positive.
        heterogeneity: the least relative variance of a heterogeneous layer, from 0 up.
        refined: share of the components that the refinement takes, in [0, 1].
        algebra: how the singular components are computed.
    """
    if not (epsilon > 0 and heterogeneity >= 0 and 0 <= refined <= 1):
        given = f"epsilon={epsilon}, heterogeneity={heterogeneity}, refined={refined}"
        raise UserError(f"{given}: give epsilon > 0, heterogeneity >= 0, and refined as a share in [0, 1]")
    changed = deltas[deltas.flatten(1).any(1)].double()
    if not len(changed):
        return torch.zeros_like(deltas[0])
    m, n = deltas.shape[1:]
    traces = changed.square().sum((1, 2))
    logs = traces.log()
    spread = logs.var() if len(changed) > 1 else logs.new_zeros(())
    uneven = bool(spread > heterogeneity * logs.mean().square())
    identity = torch.eye(n, dtype=changed.dtype, device=changed.device)
    covariances, total, target = [], changed.new_zeros(n, n), changed.new_zeros(m, n)
    for delta in changed:
        centred = delta - delta.mean(0)
        own = gram(centred)
        scale = own.trace() + _TINY if uneven else own.new_ones(())
        covariances.append(own / scale)
        total += covariances[-1] + epsilon / scale * identity
        target += times(centred, covariances[-1] + epsilon / scale * identity)
    prior = torch.stack(covariances).sum(0).mean(0) / (traces.mean() if uneven else 1)
    merged = torch.linalg.solve(total + prior, target, left=False)
    if uneven:
        middle = total / len(changed)
        rest = sum(times(delta, own - middle) for delta, own in zip(changed, covariances, strict=True))
        u, s, vh = sum_svd((merged + rest).to(deltas).unsqueeze(0), int(refined * min(m, n) + 1e-9), algebra)
        if s.numel():
            merged = merged + times(s.mean() * u, vh)
    return merged.to(deltas)
