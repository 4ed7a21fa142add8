"""TSV-M and Iso-C of low-rank task matrices are Core Space merging (arXiv 2509.17786)."""

import pytest
import torch

from tsv_exp.decompositions.algebra import FactoredAlgebra
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.layers import LowRank
from tsv_exp.methods.isotropic import iso_c, iso_c_product
from tsv_exp.methods.singular_vectors import tsv_m, tsv_m_product

TASKS, M, N, R = 3, 30, 21, 4


def factors(seed):
    """B_i (m, r) and A_i (r, n) of every task, columns and rows of unequal size."""
    g = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(0, -1, R, dtype=torch.float64)
    b = torch.randn(TASKS, M, R, generator=g, dtype=torch.float64) * sizes
    return b, torch.randn(TASKS, R, N, generator=g, dtype=torch.float64)


def in_core_space(method, b, a):
    """Core Space merging as the paper defines it: reference bases of all B_i and all A_i by SVDs, then the merge of the
    core matrices U_Bᵀ B_i A_i V_A, brought back."""
    left = torch.linalg.svd(torch.cat(list(b), 1), full_matrices=False).U
    right = torch.linalg.svd(torch.cat(list(a), 0), full_matrices=False).Vh.mT
    return left @ method(left.mT @ (b @ a) @ right) @ right.mT


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("method", "product", "params"),
    [(tsv_m, tsv_m_product, {}), (tsv_m, tsv_m_product, {"rank_fraction": 0.5}), (iso_c, iso_c_product, {})],
)
def test_the_same_merge(method, product, params, seed):
    b, a = factors(seed)
    core = in_core_space(lambda deltas: method(deltas, **params), b, a)  # k = T r / T or T r / 2, both ≥ r
    assert torch.allclose(method(b @ a, **params), core, atol=1e-12)
    stand_in = torch.empty(TASKS, M, N, device="meta")
    ones = torch.ones(R, dtype=torch.float64)
    algebra = FactoredAlgebra(
        stand_in, [LowRank(left, ones, right) for left, right in zip(b, a, strict=True)], ExactAlgebra()
    )
    merged = product(stand_in, **params, algebra=algebra)
    assert merged.s.shape[0] == TASKS * R
    assert torch.allclose(merged.dense(), core, atol=1e-12)


def test_below_the_rank_of_the_factors_k_decides():
    """With k < r the two differ only by k: both keep the same top k components of every task."""
    b, a = factors(0)
    core = in_core_space(lambda deltas: tsv_m(deltas, 2 / (TASKS * R)), b, a)
    assert torch.allclose(tsv_m(b @ a, 2 / N), core, atol=1e-12)
