"""The likelihood of a layer's inputs under one Gaussian per task, whose covariance comes from the task matrix.

Fine-tuning by gradient steps adds outer products of output gradients and inputs to a layer, so the rows of Δ_i lie
among task i's inputs, and G_i = Δ_iᵀ Δ_i stands in for their second moments (as in iso_reg, docs/iso_reg.md):

    x ~ N(0, S_i),  S_i = n · G_i / tr G_i + ε · I        for inputs x (n,) of mean square 1
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ENTRIES = 1 << 24  # entries of intermediate results that are computed at a time
_FORMS = 1 << 26  # entries of the matrices A_i A_iᵀ of all tasks that may be in memory


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
    count, length, n = inputs.shape
    tasks, rank, _ = gaussians.factors.shape
    moments = by_moments(count, length, tasks, rank, n)
    forms = (gaussians.factors.mT @ gaussians.factors).flatten(1).mT if moments else None
    size = max(1, _ENTRIES // max(1, n * n if moments else length * (n + tasks * rank)))
    explained = [gaussians.logdet.new_zeros(0, tasks)]
    for start in range(0, count, size):
        tokens = _scaled(inputs[start : start + size].float(), weights[start : start + size])
        if forms is not None:
            explained.append((tokens.mT @ tokens).flatten(1) @ forms)
        else:
            inside = tokens @ gaussians.factors.flatten(0, 1).mT
            explained.append(inside.square().sum(1).view(-1, tasks, rank).sum(2))
    quadratic = n / gaussians.epsilon - torch.cat(explained)
    found = -(quadratic + gaussians.logdet + n * math.log(2 * math.pi)) / (2 * n)
    return torch.where(found.isnan(), found.nanmean(1, keepdim=True), found)


def _scaled(inputs: Tensor, weights: Tensor) -> Tensor:
    """√w_l · x_l (B, L, n) of the scaled tokens."""
    square = (inputs.square().sum(2) * weights).sum(1, keepdim=True)
    scale = torch.where(square > 0, inputs.shape[2] / square, 0)  # an example of zeros stays one
    return inputs * (weights * scale).sqrt().unsqueeze(2)


def by_moments(count: int, length: int, tasks: int, rank: int, n: int) -> bool:
    """Whether second moments of each example (n, n) take fewer products than the factors of each token, and fit.

    Args:
        count: B examples.
        length: L tokens of each.
        tasks: T.
        rank: r rows of a task's factors.
        n: dimensions.
    """
    if tasks * n * n > _FORMS:
        return False
    return count * n * n * (length + tasks) + tasks * rank * n * n < count * length * n * tasks * rank
