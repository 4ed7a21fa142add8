import pytest
import torch
from models import matrix

from tsv_exp.decompositions.exact import ExactAlgebra, polar, truncated_svd
from tsv_exp.decompositions.fast import FastAlgebra


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (16, 16)])
def test_truncated_svd_is_the_best_approximation(shape):
    g = torch.Generator().manual_seed(0)
    x = torch.stack([matrix(*shape, g) for _ in range(3)])
    factors = truncated_svd(x, 5)
    errors = (factors.dense() - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(errors, torch.linalg.svdvals(x)[:, 5:].norm(dim=1))
    torch.testing.assert_close(factors.u.mT @ factors.u, torch.eye(5, dtype=x.dtype).expand(3, 5, 5))


def test_null_directions_are_zero():
    g = torch.Generator().manual_seed(0)
    x = torch.stack([matrix(20, 12, g, rank=2), torch.zeros(20, 12, dtype=torch.float64)])
    u, s, vh = truncated_svd(x, 4)
    assert (s != 0).sum(1).tolist() == [2, 0]
    assert not u[0, :, 2:].any()
    assert not vh[0, 2:].any()
    assert not u[1].any()


@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
def test_polar_is_the_nearest_isometry_and_keeps_null_directions_out(shape):
    g = torch.Generator().manual_seed(0)
    x = matrix(*shape, g)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(polar(x).dense(), u @ vh)
    values = torch.linalg.svdvals(polar(matrix(*shape, g, rank=5)).dense())
    torch.testing.assert_close(values, torch.tensor([1.0] * 5 + [0.0] * 7, dtype=x.dtype))
    assert polar(x[:, :0]).dense().shape == (shape[0], 0)


@pytest.mark.parametrize("algebra", [ExactAlgebra(), FastAlgebra()])
def test_a_direction_that_a_square_matrix_barely_has_is_kept(algebra):
    g = torch.Generator().manual_seed(0)
    p, q = (torch.linalg.qr(torch.randn(128, 128, generator=g, dtype=torch.float64)).Q for _ in range(2))
    s = torch.linspace(1, 0.01, 128, dtype=torch.float64)
    s[-1] = 5e-6  # beyond √128 · eps = 1.3e-6, below 128 · eps
    x = (p * s @ q.mT).float()
    expected = polar(x.double()).dense()
    assert (algebra.polar(x).dense() - expected).norm() < 1e-4 * expected.norm()
