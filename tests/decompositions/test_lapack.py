"""scipy's routines against torch's in float64: batches, empty matrices, triangles and layouts."""

import pytest
import torch

from tsv_exp.decompositions.lapack import add_gram, eigh, qr, solve_triangular

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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("m", "n"), [(0, 0), (3, 0), (1, 1), (90, 40), (50, 50)])
@pytest.mark.parametrize("columns", [True, False])
def test_qr(dtype, batch, m, n, columns):
    x = laid_out(drawn(*batch, m, n, dtype=dtype), columns)
    before = x.clone()
    q, r = qr(x)
    assert torch.equal(x, before)
    assert q.dtype == r.dtype == dtype
    assert q.shape == (*batch, m, n)
    assert torch.equal(r, r.triu())
    torch.testing.assert_close(q @ r, x, rtol=0, atol=40 * TOLERANCE[dtype])
    torch.testing.assert_close(q.mT @ q, torch.eye(n, dtype=dtype).expand(*batch, n, n), rtol=0, atol=TOLERANCE[dtype])


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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("m", "n"), [(0, 3), (1, 1), (1, 9), (9, 1), (30, 7), (7, 30)])
@pytest.mark.parametrize("layout", ["rows", "columns", "part", "repeated"])
def test_sums_of_gram_matrices(dtype, batch, m, n, layout):
    x = drawn(*batch, m, n, dtype=dtype)
    x = {
        "rows": x,
        "columns": laid_out(x, True),
        "part": torch.nn.functional.pad(x, (2, 3, 1, 1))[..., 1 : m + 1, 2 : n + 2],
        "repeated": x[..., :1].expand_as(x),
    }[layout]
    around = drawn(*batch, n + 5, n + 4, dtype=dtype)
    wanted = around.double()
    wanted[..., 2 : n + 2, 3 : n + 3] -= 1.5 * (x.mT.double() @ x.double()).triu()
    add_gram(around[..., 2 : n + 2, 3 : n + 3], x, -1.5)
    torch.testing.assert_close(around.double(), wanted, rtol=0, atol=3 * m * TOLERANCE[dtype])
