"""The regressions of this project by independent float64 computations, and small task matrices for them."""

import torch
from models import matrix
from textbook import svd
from torch.linalg import inv

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-4}


def iso_reg(deltas, ridge=0.1):
    """By inverses and singular value decompositions, in float64."""
    taus = [delta.double() for delta in deltas if delta.any()]
    if not taus:
        return torch.zeros_like(deltas[0]).double()
    m, n = taus[0].shape
    if m < n:
        return iso_reg([tau.T for tau in taus], ridge).T
    weights = [1 / float(tau.square().sum()) for tau in taus]
    g = sum(w * tau.T @ tau for w, tau in zip(weights, taus, strict=True))
    f = sum(w * tau @ tau.T for w, tau in zip(weights, taus, strict=True))
    r = sum(w * (tau @ tau.T) @ tau for w, tau in zip(weights, taus, strict=True))
    u, s, _ = svd(r, full_matrices=False)
    p = u[:, s > 1e-9 * s[0]] @ u[:, s > 1e-9 * s[0]].T
    on_inputs = r @ inv(g + ridge * g.trace() / n * torch.eye(n, dtype=r.dtype))
    on_outputs = p @ inv(p @ f @ p + ridge * f.trace() / m * torch.eye(m, dtype=r.dtype)) @ r
    u, s, vh = svd((on_inputs + on_outputs) / 2, full_matrices=False)
    flat = s / (s.square() + ridge * s.square().mean()).sqrt()
    return u @ (flat * (flat @ s) / (flat @ flat)).diag() @ vh


def white_reg(deltas, ridge=0.1):
    """By inverses, projections and singular value decompositions, in float64."""
    taus = [delta.double() for delta in deltas if delta.any()]
    if not taus:
        return torch.zeros_like(deltas[0]).double()
    if all(_rest(tau) < 1e-4 for tau in taus):
        return whitened([tau.T for tau in taus], ridge, 0.25).T / len(taus) ** 0.5
    return whitened(taus, ridge, 0.5)


def _rest(tau):
    energies = torch.linalg.svdvals(tau).square()
    return float(energies[len(energies) // 4 :].sum() / energies.sum())


def whitened(taus, ridge, power):
    """Regression on the rows, and whitening of the columns by F^(−power)."""
    m, n = taus[0].shape
    on_inputs, on_outputs = (ridge * len(taus) / size * torch.eye(size).double() for size in (n, m))
    weights = [1 / float(tau.square().sum()) for tau in taus]
    g = sum(w * tau.T @ tau for w, tau in zip(weights, taus, strict=True))
    f = sum(w * tau @ tau.T for w, tau in zip(weights, taus, strict=True))
    r = sum(w * tau @ tau.T @ tau + tau @ on_inputs for w, tau in zip(weights, taus, strict=True))
    k = r @ inv(g + on_inputs)
    u, s, _ = svd(k, full_matrices=False)
    p = u[:, s > 1e-9 * s[0]] @ u[:, s > 1e-9 * s[0]].T
    u, s, _ = svd(p @ f @ p + on_outputs)
    white = u @ (s[:, None] ** -power * u.T) @ k
    return white * k.norm() / white.norm()


def error(got, wanted):
    return float((got.double() - wanted).norm() / wanted.norm())


def sample(tasks, m, n, seed=0, **kwargs):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([matrix(m, n, g, **kwargs) for _ in range(tasks)])
