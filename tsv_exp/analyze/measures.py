"""Measures of one layer's deltas (T, m, n): spectra, subspaces, interference."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tsv_exp.analyze.interference import singular_interference
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.layers import LowRank
from tsv_exp.merging.results.across import layer_kind
from tsv_exp.methods.singular_vectors import concatenate_factors


@dataclass(frozen=True)
class LayerMeasures:
    """One matrix layer of T tasks, at k singular components per task.

    Args:
        name: of the parameter.
        shape: (m, n).
        k: components per task.
        interference: STI.
        strength: Σσ of the components of all tasks, what STI is relative to.
        spectra: (T, min(m, n)), all singular values, descending.
        left: (T, T), overlap of the spans of U_i and U_j: ‖U_iᵀ U_j‖²_F / min(rank_i, rank_j), from 0 to 1.
        right: the same of V.
        pairs: (T, T), STI of the two tasks alone, symmetric with a zero diagonal.
        strengths: (T,), Σσ of the components of each task.
    """

    name: str
    shape: tuple[int, int]
    k: int
    interference: float
    strength: float
    spectra: Tensor
    left: Tensor
    right: Tensor
    pairs: Tensor
    strengths: Tensor

    @property
    def kind(self) -> str:
        """The layer's type: its name without the number of its block."""
        return layer_kind(self.name)

    @property
    def energy(self) -> Tensor:
        """(T,): the share of ‖Δ_i‖²_F in its top k components; 0 where Δ_i = 0."""
        squares = self.spectra.square()
        return _ratio(squares[:, : self.k].sum(1), squares.sum(1))

    @property
    def stable_rank(self) -> Tensor:
        """(T,): ‖Δ_i‖²_F / σ_1², between 1 and the rank; 0 where Δ_i = 0."""
        squares = self.spectra.square()
        return _ratio(squares.sum(1), squares[:, 0])


def measure(name: str, deltas: Tensor, k: int, algebra: Algebra) -> LayerMeasures:
    """Measure one layer's deltas (T, m, n) at k components per task."""
    factors = algebra.truncated_svd(deltas, k)
    together = concatenate_factors(factors)
    left, right = factors.u.mT.unsqueeze(1) @ factors.u, factors.vh.unsqueeze(1) @ factors.vh.mT
    ranks = (factors.s != 0).sum(1)
    smaller = torch.minimum(ranks.unsqueeze(1), ranks)
    return LayerMeasures(
        name=name,
        shape=(deltas.shape[1], deltas.shape[2]),
        k=k,
        interference=singular_interference(together),
        strength=float(together.s.sum()),
        spectra=spectra(deltas),
        left=_ratio(left.square().sum((2, 3)), smaller),
        right=_ratio(right.square().sum((2, 3)), smaller),
        pairs=pair_interference(factors, left, right),
        strengths=factors.s.sum(1),
    )


def spectra(deltas: Tensor) -> Tensor:
    """All singular values (T, min(m, n)) of deltas (T, m, n), descending."""
    narrow = deltas if deltas.shape[1] >= deltas.shape[2] else deltas.mT
    # float64: the square roots of a Gram matrix's eigenvalues have half of its digits
    gram = narrow.double().mT @ narrow.double()
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(1).to(deltas.dtype)


def pair_interference(factors: LowRank, left: Tensor, right: Tensor) -> Tensor:
    """STI (T, T) of every two tasks alone: ‖A Σ_j Bᵀ‖₁ + ‖Aᵀ Σ_i B‖₁ with A = U_iᵀ U_j and B = V_iᵀ V_j.

    Args:
        factors: the components of T tasks.
        left: (T, T, k, k), every A.
        right: (T, T, k, k), every B.
    """
    half = ((left * factors.s.unsqueeze(1)) @ right.mT).abs().sum((2, 3))
    return (half + half.T).fill_diagonal_(0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where whole is 0."""
    return torch.where(whole == 0, 0, part / torch.where(whole == 0, 1, whole))
