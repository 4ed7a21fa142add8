"""The papers' formulas on whole dictionaries in float64, without tsv_exp: what tests compare with."""

import math

import torch
from torch.linalg import svd


def task_vectors(base, finetuned):
    return [
        {k: m[k].double() - base[k].double() for k in base if base[k].is_floating_point()} for m in finetuned.values()
    ]


def is_matrix(name, delta):
    return delta.dim() == 2 and "text_projection" not in name


def zero_shot(taus):
    return {k: torch.zeros_like(v) for k, v in taus[0].items()}


def weight_average(taus):
    return {k: sum(t[k] for t in taus) / len(taus) for k in taus[0]}


def task_arithmetic(taus):
    return {k: sum(t[k] for t in taus) for k in taus[0]}


def ties(taus, density=0.2):
    flat = torch.stack([torch.cat([t[k].flatten() for k in t]) for t in taus])
    d = flat.shape[1]
    kept = math.floor(density * d + 1e-9)
    for row in flat:
        cut = row.abs().sort().values[d - kept - 1] if kept < d else 0
        row[row.abs() < cut] = 0
    elected = flat.sum(0).sign()
    majority = elected.sum().sign()
    elected[elected == 0] = majority if majority != 0 else -1
    merged = torch.zeros(d, dtype=torch.float64)
    for j in range(d):
        agreeing = [x for x in flat[:, j].tolist() if x * elected[j] > 0]
        merged[j] = sum(agreeing) / len(agreeing) if agreeing else 0
    pieces = merged.split([v.numel() for v in taus[0].values()])
    return {k: piece.view(v.shape) for (k, v), piece in zip(taus[0].items(), pieces, strict=True)}


def masks(taus, lambdas):
    total = task_arithmetic(taus)
    return [{k: t[k].abs() > lam * (total[k] - t[k]).abs() for k in t} for t, lam in zip(taus, lambdas, strict=True)]


def tall_mask(taus, lambdas):
    total = task_arithmetic(taus)
    return [{k: mask[k] * total[k] for k in total} for mask in masks(taus, lambdas)]


def consensus_ta(taus, lambdas, threshold=2):
    total, chosen = task_arithmetic(taus), masks(taus, lambdas)
    return {k: total[k] * (sum(m[k].int() for m in chosen) >= threshold) for k in total}


def components(shape, tasks, rank_fraction=None):
    full = min(shape)
    return full // tasks if rank_fraction is None else max(1, math.floor(rank_fraction * full + 1e-9))


def truncated(delta, k, eps):
    """The top k components that are not null directions in arithmetic of precision `eps`."""
    u, s, vh = svd(delta, full_matrices=False)
    rank = min(k, int((s > max(delta.shape) * eps * s[0]).sum()))
    return u[:, :rank], s[:rank], vh[:rank]


def polar(x, eps):
    if not x.numel():
        return x
    p, d, qh = svd(x, full_matrices=False)
    keep = d > max(x.shape) ** 0.5 * eps * d[0]
    return p[:, keep] @ qh[keep]


def tsv_c(taus, rank_fraction=None, eps=2**-52):
    merged = []
    for tau in taus:
        merged.append(dict(tau))
        for name, delta in tau.items():
            if is_matrix(name, delta):
                u, s, vh = truncated(delta, components(delta.shape, len(taus), rank_fraction), eps)
                merged[-1][name] = u @ s.diag() @ vh
    return merged


def tsv_m(taus, rank_fraction=None, eps=2**-52):
    merged = weight_average(taus)
    for name, first in taus[0].items():
        if is_matrix(name, first):
            k = components(first.shape, len(taus), rank_fraction)
            factors = [truncated(tau[name], k, eps) for tau in taus]
            u = polar(torch.cat([f[0] for f in factors], 1), eps)
            vh = polar(torch.cat([f[2] for f in factors], 0), eps)
            merged[name] = u @ torch.cat([f[1] for f in factors]).diag() @ vh
    return merged


def interference(taus, name):
    k = components(taus[0][name].shape, len(taus))
    factors = [truncated(tau[name], k, 2e-16) for tau in taus]
    u, s, v = (
        torch.cat([f[0] for f in factors], 1),
        torch.cat([f[1] for f in factors]),
        torch.cat([f[2].T for f in factors], 1),
    )
    eye = torch.eye(len(s), dtype=torch.float64)
    return float(((u.T @ u - eye) @ s.diag() @ (v.T @ v - eye)).abs().sum())
