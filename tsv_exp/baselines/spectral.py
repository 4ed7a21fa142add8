"""Baselines that work on the singular components of the deltas (T, m, n): Iso-C, Iso-CTS, KnOTS, variants of TSV-M."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.linalg import Algebra, Exact, factors_suffice, significant
from tsv_exp.methods import Majority, concatenated, decorrelated, ties, ties_statistics, tsv_c
from tsv_exp.task_vectors import Layer, TaskVectors


def iso_c(deltas: Tensor, *, algebra: Algebra = Exact()) -> Tensor:  # noqa: B008
    """Iso-C (arXiv 2502.04959, algorithm 1): Σ_i Δ_i with its singular values replaced by their mean.

    Null directions are left out, of the mean too: the sum of the singular values stays what it was.
    """
    u, s, vh = _components(deltas.sum(0), min(deltas.shape[1:]), algebra)
    return s.mean() * u @ vh


def iso_cts(deltas: Tensor, common_fraction: float = 0.8, *, algebra: Algebra = Exact()) -> Tensor:  # noqa: B008
    """Iso-CTS (arXiv 2502.04959, algorithm 2): the common subspace of Σ_i Δ_i completed by task-specific ones.

    With r = min(m, n) and s = round((r − floor(common_fraction · r)) / T), at most r / T: the top r − T · s components
    U_c Σ_c V_cᵀ of Σ_i Δ_i and per task the top s components of Δ_i − U_c U_cᵀ Δ_i, side by side; both sides
    orthogonalized, every singular value replaced by the mean of all.

    Args:
        deltas: (T, m, n).
        common_fraction: the share of r that the common subspace takes, in [0, 1].
        algebra: how the decompositions are computed.
    """
    if not 0 <= common_fraction <= 1:
        raise UserError(f"common_fraction={common_fraction}: it is a share of the components; give a number in [0, 1]")
    tasks, full = len(deltas), min(deltas.shape[1:])
    specific = min(round((full - math.floor(common_fraction * full + 1e-9)) / tasks), full // tasks)
    common = _components(deltas.sum(0), full - tasks * specific, algebra)
    rest = algebra.truncated_svd(deltas - common.u @ (common.u.mT @ deltas), specific)
    # all that the common part leaves of a low-rank Δ_i is rounding
    noise = max(deltas.shape[1:]) * torch.finfo(deltas.dtype).eps * deltas.flatten(1).norm(dim=1)
    parts = concatenated(rest._replace(s=torch.where(rest.s > noise.unsqueeze(1), rest.s, 0))), common
    u, vh = torch.cat([part.u for part in parts], 1), torch.cat([part.vh for part in parts])
    s = torch.cat([part.s for part in parts])
    return decorrelated(LowRank(u, s.mean().expand_as(s), vh), algebra)


def _components(matrix: Tensor, k: int, algebra: Algebra) -> LowRank:
    """The top k singular components of a matrix without null directions."""
    return concatenated(algebra.truncated_svd(matrix.unsqueeze(0), k))


def aligned_basis(deltas: Tensor) -> Tensor:
    """U (m, r) of the thin SVD [Δ_1 … Δ_T] = U Σ [V_1 … V_T]ᵀ, without null directions."""
    tasks, m, n = deltas.shape
    triangle = torch.linalg.qr(deltas.transpose(0, 1).flatten(1).mT, mode="r").R
    u, s, _ = torch.linalg.svd(triangle.mT, full_matrices=False)
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
        return layer.with_deltas(self.bases[name].mT @ layer.deltas)


def knots_ties_statistics(stream: TaskVectors, density: float) -> Mapping[str, Any]:
    """What TIES needs to know of all aligned task matrices together; holds one basis per matrix, whatever T is."""
    matrices = [name for name in stream.names if stream.is_matrix(name)]
    found = stream.watched("aligning").map(lambda layer: (layer.name, aligned_basis(layer.deltas)), matrices)
    bases = {name: basis for name, basis in found if basis.numel()}
    return ties_statistics(_Aligned(stream.base, stream.finetuned, stream.exclude, stream.device, bases=bases), density)


def knots_ties(deltas: Tensor, thresholds: Tensor, majority: Majority) -> Tensor:
    """KnOTS with TIES-Merging (arXiv 2410.19735): U · TIES(Σ V_1ᵀ, …, Σ V_Tᵀ); [Δ_1 …] = U Σ [V_1 …]ᵀ."""
    u = aligned_basis(deltas)
    return u @ ties(u.mT @ deltas, thresholds, majority)


@factors_suffice
def tsv_m_eigen(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = Exact()) -> Tensor:  # noqa: B008
    """TSV-M (arXiv 2412.00081) with polar(X) = X (XᵀX)^(−1/2) from an eigendecomposition of the Gram matrix in float64.

    The second variant of the official code, which computes in float32 and keeps null directions.
    """
    u, s, vh = concatenated(tsv_c(deltas, rank_fraction, algebra=algebra))
    return (gram_polar(u) * s) @ gram_polar(vh)


def gram_polar(x: Tensor) -> Tensor:
    """The polar factor of a matrix (m, n), without null directions."""
    if not x.numel():
        return x
    if x.shape[0] < x.shape[1]:
        return gram_polar(x.mT).mT
    values, vectors = torch.linalg.eigh(x.double().mT @ x.double())
    # σ_j ≤ max(m, n) · eps · σ_1 as everywhere, or what float64 cannot tell from 0 after squaring
    size, eps = max(x.shape), torch.finfo(x.dtype).eps
    kept = values > max((size * eps) ** 2, size * torch.finfo(torch.float64).eps) * values[-1]
    inverse_roots = torch.where(kept, values, torch.inf).rsqrt()
    return (x.double() @ (vectors * inverse_roots) @ vectors.mT).to(x.dtype)


@factors_suffice
def truncated_sum(deltas: Tensor, rank_fraction: float | None = None, *, algebra: Algebra = Exact()) -> Tensor:  # noqa: B008
    """TSV-M without orthogonalization (arXiv 2412.00081, section 6.1): Σ_i of the top k singular components of Δ_i."""
    return tsv_c(deltas, rank_fraction, algebra=algebra).dense().sum(0)
