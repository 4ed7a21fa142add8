"""KnOTS (arXiv 2410.19735): TIES-Merging in the basis that all tasks share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import significant, svd, times, transposed_times
from tsv_exp.merging.layer import Layer
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.sign_election import Majority, ties, ties_statistics


def aligned_basis(deltas: Tensor) -> Tensor:
    """U (m, r) of the thin SVD [Δ_1 … Δ_T] = U Σ [V_1 … V_T]ᵀ, without null directions."""
    tasks, m, n = deltas.shape
    triangle = torch.linalg.qr(deltas.transpose(0, 1).flatten(1).mT, mode="r").R
    u, s, _ = svd(triangle.mT)
    return u[:, significant(s, m, tasks * n)]


@dataclass(frozen=True)
class _Aligned(TaskVectors):
    """A stream of task matrices in the basis that all tasks share: Uᵀ Δ_i = Σ V_iᵀ."""

    bases: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.bases)

    @property
    def size(self) -> int:
        return sum(basis.shape[1] * self.base[name].shape[1] for name, basis in self.bases.items())

    def layer(self, name: str) -> Layer:
        layer = super().layer(name)
        return layer.with_deltas(transposed_times(self.bases[name], layer.deltas))


def knots_ties_statistics(stream: TaskVectors, density: float) -> Mapping[str, Any]:
    """Statistics of all aligned task matrices together for TIES; holds one basis per matrix for any T."""
    matrices = [name for name in stream.names if stream.is_matrix(name)]
    found = stream.with_progress("aligning").map(lambda layer: (layer.name, aligned_basis(layer.deltas)), matrices)
    bases = {name: basis for name, basis in found if basis.numel()}
    return ties_statistics(_Aligned(**stream.fields(), bases=bases), density)


def knots_ties(deltas: Tensor, thresholds: Tensor, majority: Majority) -> Tensor:
    """KnOTS with TIES-Merging (arXiv 2410.19735): U · TIES(Σ V_1ᵀ, …, Σ V_Tᵀ); [Δ_1 …] = U Σ [V_1 …]ᵀ."""
    u = aligned_basis(deltas)
    return times(u, ties(transposed_times(u, deltas), thresholds, majority))
