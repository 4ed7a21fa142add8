"""The likelihood of a layer's inputs under one Gaussian per task, whose covariance comes from the task matrix.

Fine-tuning by gradient steps adds outer products of output gradients and inputs to a layer, so the rows of Δ_i lie
among task i's inputs, and G_i = Δ_iᵀ Δ_i stands in for their second moments (as in iso_reg, docs/iso_reg.md):

    x ~ N(0, S_i),  S_i = n · G_i / tr G_i + ε · I        for inputs x (n,) of mean square 1
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_ENTRIES = 1 << 24  # entries of intermediate results that are computed at a time


class Gaussians(NamedTuple):
    """T Gaussians N(0, S_i) of n dimensions in the form of Woodbury's identity: S_i⁻¹ = I / ε − A_i A_iᵀ.

    `factors` (T, r, n): A_iᵀ; zero rows are absent. `logdet` (T,): log det S_i; NaN for a task without a Gaussian.
    `epsilon` (): ε.
    """

    factors: Tensor
    logdet: Tensor
    epsilon: Tensor


def fit_gaussians(s: Tensor, vh: Tensor, squares: Tensor, epsilon: float) -> Gaussians:
    """The Gaussians of a layer from singular components of its task matrices.

    With all components they are exact. Of truncated task matrices, G_i has the kept components alone, tr G_i all.

    Args:
        s: (T, r), singular values of Δ_i; zeros are absent.
        vh: (T, r, n), right singular vectors.
        squares: (T,), ‖Δ_i‖² = tr G_i; a task with 0 leaves the layer unchanged and has no Gaussian.
        epsilon: ε > 0.
    """
    n = vh.shape[2]
    changed = squares > 0
    values = n * s.double().square() / torch.where(changed, squares.double(), 1).unsqueeze(1)
    scale = (values / (epsilon * (values + epsilon))).sqrt()
    logdet = (values / epsilon).log1p().sum(1) + n * math.log(epsilon)
    return Gaussians(
        factors=(scale.unsqueeze(2) * vh).to(vh),
        logdet=torch.where(changed, logdet, torch.nan).to(vh),
        epsilon=vh.new_tensor(epsilon),
    )


def log_likelihoods(inputs: Tensor, weights: Tensor, gaussians: Gaussians) -> Tensor:
    """The mean log-likelihood (B, T), float32, of an example's tokens under each task's Gaussian, per dimension.

        (1/n) Σ_l w_l log N(x_l; 0, S_i),        tokens x_l scaled so that the example's mean square is 1

    A task without a Gaussian gets the mean over the others.

    Args:
        inputs: (B, L, n), any floating-point dtype.
        weights: (B, L), w_l of each token, with sum 1 per example; 0 for padding.
        gaussians: of the T tasks, in float32.
    """
    n = inputs.shape[2]
    explained = [_explained(inputs[part].float(), weights[part], gaussians) for part in _parts(inputs, gaussians)]
    quadratic = n / gaussians.epsilon - torch.cat([*explained, gaussians.logdet.new_zeros(0, len(gaussians.logdet))])
    found = -(quadratic + gaussians.logdet + n * math.log(2 * math.pi)) / (2 * n)
    return torch.where(found.isnan(), found.nanmean(1, keepdim=True), found)


def _explained(inputs: Tensor, weights: Tensor, gaussians: Gaussians) -> Tensor:
    """Σ_l w_l ‖A_iᵀ x_l‖² (B, T) of the scaled tokens."""
    n = inputs.shape[2]
    square = (inputs.square().sum(2) * weights).sum(1, keepdim=True)
    scale = torch.where(square > 0, n / square, 0)  # an example of zeros stays one
    tokens = inputs * (weights * scale).sqrt().unsqueeze(2)
    if by_moments(*inputs.shape[:2], *gaussians.factors.shape):
        forms = gaussians.factors.mT @ gaussians.factors
        return (tokens.mT @ tokens).flatten(1) @ forms.flatten(1).mT
    tasks, rank, _ = gaussians.factors.shape
    inside = tokens @ gaussians.factors.flatten(0, 1).mT
    return inside.square().sum(1).view(-1, tasks, rank).sum(2)


def by_moments(count: int, length: int, tasks: int, rank: int, n: int) -> bool:
    """Whether second moments of each example (n, n) take fewer products than the factors of each token.

    Args:
        count: B examples.
        length: L tokens of each.
        tasks: T.
        rank: r rows of a task's factors.
        n: dimensions.
    """
    return count * n * n * (length + tasks) + tasks * rank * n * n < count * length * n * tasks * rank


def _parts(inputs: Tensor, gaussians: Gaussians) -> Iterator[slice]:
    """Slices of the examples whose intermediate results fit."""
    count, length, n = inputs.shape
    tasks, rank, _ = gaussians.factors.shape
    each = n * n if by_moments(count, length, tasks, rank, n) else length * (n + tasks * rank)
    size = max(1, _ENTRIES // max(1, each))
    return (slice(start, start + size) for start in range(0, count, size))
