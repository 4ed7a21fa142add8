"""router=likelihood: the task under whose Gaussians the inputs of the base model's layers are most likely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.layer import Layer
from tsv_exp.methods.singular_vectors import components_per_task
from tsv_exp.routing.gaussian import Gaussians, fit_gaussians, log_likelihoods
from tsv_exp.routing.router import Router, Statistics
from tsv_exp.routing.subspace import standardized


@dataclass(frozen=True)
class Likelihood(Router):
    """The sum over layers of an input's mean log-likelihood per token and dimension (gaussian.py).

    Args:
        epsilon: ε, what is added to the second moments, above 0.
        rank_fraction: the share of min(m, n) singular components that a task keeps, in (0, 1].
        standardize: whether each layer's scores are standardized over the tasks of an input before they are summed.
        narrowing: whether layers with fewer outputs than inputs are scored too. Their task matrices, of rank at most m,
            leave n − m directions of the inputs without a variance.
        layers: patterns of the parameters whose inputs are scored.
    """

    name: ClassVar[str] = "likelihood"
    hint: ClassVar[str] = "; router.narrowing=true reads layers with fewer outputs than inputs too"

    epsilon: float = 0.3
    rank_fraction: float = 0.25
    standardize: bool = False
    narrowing: bool = False
    layers: Sequence[str] = ("*",)

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise UserError(f"router.epsilon={self.epsilon}: give a positive number")
        components_per_task((1, 1), 1, self.rank_fraction)

    def statistics(self, layer: Layer, algebra: Algebra) -> Statistics | None:
        """Factors and log determinants of T Gaussians."""
        m, n = layer.shape[1:]
        if m < n and not self.narrowing:
            return None
        squares = squared_norms(layer)
        if not bool(squares.any()):
            return None
        deltas, known = layer.to_decompose(algebra)
        _, s, vh = known.truncated_svd(deltas, components_per_task((m, n), layer.shape[0], self.rank_fraction))
        return {key: value.contiguous() for key, value in fit_gaussians(s, vh, squares, self.epsilon)._asdict().items()}

    def layer_scores(self, inputs: Tensor, weights: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """Log-likelihoods (B, T), standardized if configured."""
        found = log_likelihoods(inputs, weights, Gaussians(**statistics))
        return standardized(found) if self.standardize else found

    def combined(self, scores: Sequence[Tensor]) -> Tensor:
        """The sum over layers."""
        return torch.stack(list(scores)).sum(0)


def squared_norms(layer: Layer) -> Tensor:
    """‖Δ_i‖² (T,) of a matrix layer; products are not formed."""
    if layer.factors is None:
        return torch.stack([delta.square().sum() for delta in layer.deltas])
    return torch.stack([_squared_norm(factors) for factors in layer.factors])


def _squared_norm(factors: LowRank) -> Tensor:
    u = factors.u * factors.s
    return ((u.mT @ u) * (factors.vh @ factors.vh.mT)).sum().clamp_min(0)
