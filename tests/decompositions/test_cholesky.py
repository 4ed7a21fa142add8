import pytest
import torch

from tsv_exp.decompositions.cholesky import positive_definite, solve


@pytest.mark.parametrize("size", [1, 7, 191, 192, 193, 400])
def test_positive_definite_matrices(size):
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(4, size, size, generator=g, dtype=torch.float64)).Q
    values = torch.rand(4, 1, size, generator=g, dtype=torch.float64) + 0.01
    values[1, 0, 0], values[2, 0, -1] = -0.01, -1.0
    values[3, 0, size // 2] = -1e-3
    x = q * values @ q.mT
    x = (x + x.mT).float() / 2
    assert positive_definite(x).tolist() == [True, False, False, False]


@pytest.mark.parametrize("place", [0, 100, 191, 192, 399])
def test_one_negative_pivot_is_found_wherever_it_is(place):
    x = torch.eye(400).unsqueeze(0)
    assert positive_definite(x.clone()).all()
    x[0, place, place] = -1e-6
    assert not positive_definite(x).any()


@pytest.mark.parametrize("size", [1, 7, 400])
def test_what_is_not_a_number_is_not_positive_definite(size):
    for row, column in {(0, 0), (0, size - 1), (size // 2, size - 1), (size // 2, size // 2), (size - 1, size - 1)}:
        x = torch.eye(size).unsqueeze(0)
        x[0, row, column] = torch.nan
        assert not positive_definite(x).any()


def systems(size, right, device="cpu"):
    """A positive definite matrix of condition number 1e3, right sides and the solution, in float64."""
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64)).Q
    x = (q * torch.logspace(-3, 0, size, dtype=torch.float64)) @ q.mT
    found = torch.randn(size, right, generator=g, dtype=torch.float64)
    return ((x + x.mT) / 2).to(device), (x @ found).to(device), found.to(device)


@pytest.mark.parametrize("size", [1, 7, 191, 192, 193, 400])
@pytest.mark.parametrize("right", [1, 30])
def test_linear_systems(size, right):
    x, y, expected = systems(size, right)
    assert (solve(x.clone(), y) - expected).norm() < 1e-11 * expected.norm()
    for given in (y, y.mT.contiguous().mT):
        before = given.float()
        found = solve(x.float(), before)
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 1e-3 * expected.norm()
        assert torch.equal(before, y.float())


@pytest.mark.parametrize("place", [0, 191, 192, 399])
def test_a_system_that_is_not_positive_definite_has_no_solution(place):
    x = torch.eye(400)
    x[place, place] = 0
    assert solve(x, torch.ones(400, 1)) is None


@pytest.mark.gpu
def test_on_a_gpu():
    x, y, expected = systems(300, 20, "cuda")
    assert (solve(x.clone(), y) - expected).norm() < 1e-11 * expected.norm()
    assert positive_definite(x[None].clone()).all()
    assert not positive_definite(-x[None]).any()
    assert solve(-x, y) is None
