"""scipy's routines against torch's in float64: batches, empty matrices, triangles and layouts."""

import pytest
import torch

from tsv_exp.decompositions.lapack import eigh, solve_triangular

BATCHES = ((), (3,), (2, 2), (0,))
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-13}


def drawn(*shape, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def laid_out(x, columns):
    return x.mT.contiguous().mT if columns else x.contiguous()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 130])
@pytest.mark.parametrize("triangle", ["L", "U"])
def test_eigenvectors(dtype, batch, n, triangle):
    x = drawn(*batch, n, n, dtype=dtype)
    before = x.clone()
    read = x.tril() + x.tril(-1).mT if triangle == "L" else x.triu() + x.triu(1).mT
    for given in (x, laid_out(x, True)):
        values, vectors = eigh(given, triangle)
        assert torch.equal(given, before)
        assert values.dtype == vectors.dtype == dtype
        assert values.shape == (*batch, n)
        assert vectors.shape == (*batch, n, n)
        size = TOLERANCE[dtype] * max(1, n)
        torch.testing.assert_close(read @ vectors, vectors * values.unsqueeze(-2), rtol=0, atol=size)
        torch.testing.assert_close(
            vectors.mT @ vectors, torch.eye(n, dtype=dtype).expand(*batch, n, n), rtol=0, atol=size
        )
        torch.testing.assert_close(values, torch.linalg.eigvalsh(read), rtol=0, atol=size)


def test_what_does_not_converge_is_an_error():
    with pytest.raises(torch.linalg.LinAlgError, match="3 × 3 matrix did not converge"):
        eigh(torch.full((3, 3), torch.nan))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("r", "k"), [(0, 2), (1, 1), (5, 0), (40, 7), (7, 40)])
@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("columns", [True, False])
def test_triangular_systems(dtype, batch, r, k, upper, columns):
    x = drawn(*batch, r, r, dtype=dtype) + 2 * r * torch.eye(
        r, dtype=dtype
    )  # entries of the other triangle are not read
    y = drawn(*batch, r, k, dtype=dtype)
    wanted = torch.linalg.solve_triangular(x.double(), y.double(), upper=upper)
    for right in (y, laid_out(y, True)):
        before = right.clone()
        found = solve_triangular(laid_out(x, columns), right, upper)
        assert torch.equal(right, before)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=10 * TOLERANCE[dtype])
