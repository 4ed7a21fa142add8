import pytest
import torch
from models import matrix

from tsv_exp.decompositions.numerics import cholesky_qr, eigh, qr


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


@pytest.mark.gpu
@pytest.mark.parametrize("columns", [16, 200])
def test_on_a_gpu(columns):
    x = torch.randn(3, 300, columns, generator=torch.Generator().manual_seed(0)).cuda()
    q, r = qr(x)
    torch.testing.assert_close(q @ r, x, atol=1e-5, rtol=0)
    values, vectors = eigh(x.mT @ x)
    torch.testing.assert_close(vectors * values.unsqueeze(1) @ vectors.mT, x.mT @ x, atol=1e-3, rtol=0)
    assert values.dtype == torch.float32
