import pytest
import torch
from models import matrix

from tsv_exp.decompositions.exact import ExactAlgebra, polar, truncated_svd
from tsv_exp.decompositions.fast import FastAlgebra
from tsv_exp.methods.singular_vectors import tsv_m


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


@pytest.mark.parametrize("algebra", [ExactAlgebra(), FastAlgebra()])
@pytest.mark.parametrize(("size", "tasks"), [(64, 4), (64, 2), (192, 4)])
@pytest.mark.parametrize("outlier", [1e2, 1e4, 1e6, 1e8])
def test_outliers_hide_nothing(algebra, size, tasks, outlier):
    """As the same procedure in float64, which drops nothing."""
    g = torch.Generator().manual_seed(0)
    deltas = torch.stack([matrix(size, size + 20, g, dtype=torch.float32) for _ in range(tasks)])
    places = torch.randperm(size, generator=g)[: 3 * tasks].view(tasks, 3)  # no row and no column twice
    for delta, place in zip(deltas, places, strict=True):
        delta[place, place] = outlier
    k = size // tasks
    u, s, vh = torch.linalg.svd(deltas.double(), full_matrices=False)
    u, s, vh = u[..., :k].transpose(0, 1).flatten(1), s[:, :k].flatten(), vh[:, :k].flatten(0, 1)
    sides = [torch.linalg.svd(side, full_matrices=False) for side in (u, vh)]
    expected = (sides[0].U @ sides[0].Vh * s) @ (sides[1].U @ sides[1].Vh)
    error = tsv_m(deltas, algebra=algebra).double() - expected
    assert error.norm() < 1e-5 * expected.norm()
    if outlier <= 1e4:
        rest = expected.abs() < 10
        assert error[rest].norm() < 5e-3 * expected[rest].norm()


@pytest.mark.parametrize("algebra", [ExactAlgebra(), FastAlgebra()])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_rounding_of_a_product_is_no_component(algebra, scale):
    g = torch.Generator().manual_seed(0)
    factors = torch.randn(160, 4, generator=g), torch.randn(4, 120, generator=g)
    x = factors[0] @ factors[1]
    x[:80] *= scale  # whose rounding errors are smaller
    assert int((algebra.truncated_svd(x, 20).s > 0).sum()) == 4


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
