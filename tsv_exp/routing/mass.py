"""router=mass: the router of MASS (arXiv 2504.05342, section 3.2), the projection residual at one layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError
from tsv_exp.merging.layer import Layer
from tsv_exp.methods.singular_vectors import components_per_task
from tsv_exp.routing.router import Router, Statistics
from tsv_exp.routing.subspace import residuals


@dataclass(frozen=True)
class Mass(Router):
    """The task whose right singular vectors at one layer leave the smallest residual of the input there.

    Args:
        layer: the parameter whose input is read; null: of all layers the one that routes best on validation.
        rank_fraction: the share of min(m, n) singular vectors of a task; null: floor(min(m, n) / T) of them.
        token: first (the class token, as the authors' code) or mean of the tokens.
    """

    name: ClassVar[str] = "mass"

    layer: str | None = None
    rank_fraction: float | None = None
    token: Literal["first", "mean"] = "first"
    layers: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        if self.token not in ("first", "mean"):
            raise UserError(f"router.token={self.token}: choose first or mean")
        components_per_task((1, 1), 1, self.rank_fraction)
        object.__setattr__(self, "layers", ("*",) if self.layer is None else (self.layer,))

    @property
    def undecided(self) -> bool:  # type: ignore[override]
        """Whether the layer has still to be chosen."""
        return self.layer is None

    def decided(self, layer: str) -> "Mass":
        """The router that reads this layer."""
        return replace(self, layer=layer)

    def statistics(self, layer: Layer, algebra: Algebra) -> Statistics | None:
        """The right singular vectors (T, k, n); None if there are none."""
        count = components_per_task(layer.shape[1:], layer.shape[0], self.rank_fraction)
        deltas, known = layer.to_decompose(algebra)
        vectors = known.truncated_svd(deltas, count).vh
        return {"vectors": vectors.contiguous()} if vectors.any() else None

    def layer_scores(self, inputs: Tensor, weights: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """Negative residuals (B, T)."""
        z = inputs.float()
        pooled = z[:, 0] if self.token == "first" else torch.einsum("bl,bln->bn", weights, z)
        return -residuals(pooled, statistics["vectors"])

    def combined(self, scores: Sequence[Tensor]) -> Tensor:
        """The scores of the one layer."""
        (only,) = scores
        return only
