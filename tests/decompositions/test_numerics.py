import pytest
import torch
from models import matrix

from tsv_exp.decompositions.numerics import cholesky_qr, eigh, gram, qr, times, transposed_times


@pytest.mark.parametrize("power", [0, 0.5, 1.5])
def test_cholesky_gives_a_qr_decomposition(power):
    x = torch.stack([matrix(90, 16, torch.Generator().manual_seed(i), power).float() for i in range(3)])
    q, r = cholesky_qr(x)
    torch.testing.assert_close(q @ r, x, atol=1e-6, rtol=0)
    assert (q.mT @ q - torch.eye(16)).abs().max() < 1e-5
    assert torch.equal(r, r.triu())


def test_cholesky_declines_columns_that_are_nearly_dependent():
    x = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0))
    for change in (0.0, 1e-5):
        y = x.clone()
        y[1, :, 3] = y[1, :, 2] + change * y[1, :, 3]
        assert cholesky_qr(y) is None
        assert (qr(y)[0].mT @ qr(y)[0] - torch.eye(4)).abs().max() < 1e-5
    assert cholesky_qr(torch.zeros(1, 5, 2)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("terms", [0, 1, 191, 192, 193, 700])
def test_products_of_any_layout(terms, dtype):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((2, 30, terms), (2, terms, 7)))
    wide = torch.zeros(2, 30, 2 * terms + 1, dtype=torch.float64)
    wide[..., :terms] = x
    for left in (x, x.mT.contiguous().mT, wide[..., :terms], x[:1]):
        for right in (y, y.mT.contiguous().mT, y[0]):
            expected = left @ right
            for found in (times(left.to(dtype), right.to(dtype)), transposed_times(left.to(dtype).mT, right.to(dtype))):
                assert found.dtype == dtype
                torch.testing.assert_close(
                    found.double(), expected, rtol=0, atol=8 * (terms + 1) * torch.finfo(dtype).eps
                )


def test_long_sums_are_as_accurate_as_those_of_torch():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 3072, generator=g), torch.randn(3072, 300, generator=g)
    exact = x.double() @ y.double()
    assert (times(x, y) - exact).norm() < 1.15 * (x @ y - exact).norm()


def test_products_that_overflow_are_infinite_without_a_warning():
    x = torch.full((3, 3), 1e30)
    assert times(x, x).isinf().all()
    assert gram(x).isinf().all()


@pytest.mark.gpu
@pytest.mark.parametrize("columns", [16, 200])
def test_on_a_gpu(columns):
    x = torch.randn(3, 300, columns, generator=torch.Generator().manual_seed(0)).cuda()
    q, r = qr(x)
    torch.testing.assert_close(q @ r, x, atol=1e-5, rtol=0)
    values, vectors = eigh(x.mT @ x)
    torch.testing.assert_close(vectors * values.unsqueeze(1) @ vectors.mT, x.mT @ x, atol=1e-3, rtol=0)
    assert values.dtype == torch.float32
