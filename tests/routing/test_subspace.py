"""Residuals and standardization compared with their definitions in float64."""

import torch

from tsv_exp.routing.subspace import residuals, standardized


def test_residuals() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(3, 10, 4, generator=generator)).Q.mT
    vectors[1, 2:] = 0  # a task with two components
    z = torch.randn(5, 10, generator=generator)
    got = residuals(z, vectors)
    for i, rows in enumerate(vectors.double()):
        outside = z.double() - z.double() @ rows.T @ rows
        torch.testing.assert_close(got[:, i].double(), outside.norm(dim=1), rtol=1e-5, atol=1e-6)


def test_an_input_within_a_subspace_has_no_residual() -> None:
    vectors = torch.eye(6).view(2, 3, 6)
    assert residuals(torch.tensor([[1.0, 2.0, 3.0, 0, 0, 0]]), vectors)[0, 0] == 0
    assert residuals(torch.zeros(0, 6), vectors).shape == (0, 2)


def test_standardized() -> None:
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    got = standardized(scores).double()
    wide = scores.double()
    wanted = (wide - wide.mean(1, keepdim=True)) / wide.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert (standardized(torch.full((2, 3), 7.0)) == 0).all()
    assert (standardized(torch.ones(2, 1)) == 0).all()
