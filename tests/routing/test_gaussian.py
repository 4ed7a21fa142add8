"""Likelihoods compared with the density of the full covariance in float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from tsv_exp.routing.gaussian import Gaussians, by_moments, fit_gaussians, log_likelihoods

SHAPES = [(3, 9, 7), (4, 5, 12), (2, 1, 6), (1, 6, 6)]  # tasks, m, n


def deltas(tasks: int, m: int, n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, m, n, generator=generator) * 10 ** torch.randn(tasks, 1, 1, generator=generator)


def fitted(found: Tensor, epsilon: float, rank: int | None = None) -> Gaussians:
    _, s, vh = torch.linalg.svd(found, full_matrices=False)
    return fit_gaussians(s[:, :rank], vh[:, :rank], found.square().sum((1, 2)), epsilon)


def expected(inputs: Tensor, weights: Tensor, kept: Tensor, squares: Tensor, epsilon: float) -> Tensor:
    """By the definition: `kept` (T, m, n) has the components that are left, `squares` (T,) all energy."""
    n = inputs.shape[2]
    result = torch.empty(len(inputs), len(kept), dtype=torch.float64)
    for i, delta in enumerate(kept.double()):
        covariance = n * delta.T @ delta / squares[i].double() + epsilon * torch.eye(n, dtype=torch.float64)
        density = MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance)
        for b, (tokens, w) in enumerate(zip(inputs.double(), weights.double(), strict=True)):
            scale = math.sqrt(float((tokens.square().mean(1) * w).sum()))
            result[b, i] = (density.log_prob(tokens / scale) * w).sum() / n
    return result


@pytest.mark.parametrize(("tasks", "m", "n"), SHAPES)
@pytest.mark.parametrize("length", [1, 4, 60])
@pytest.mark.parametrize("epsilon", [0.01, 1.0])
def test_likelihoods(tasks: int, m: int, n: int, length: int, epsilon: float) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = 100 * torch.randn(5, length, n, generator=generator)
    weights = torch.rand(5, length, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    found = deltas(tasks, m, n)
    got = log_likelihoods(inputs, weights, fitted(found, epsilon))
    wanted = expected(inputs, weights, found, found.square().sum((1, 2)), epsilon)
    torch.testing.assert_close(got.double(), wanted, rtol=2e-5, atol=2e-5)


def test_of_truncated_task_matrices_the_trace_is_that_of_all_components() -> None:
    found, inputs = deltas(3, 9, 7), torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(2))
    u, s, vh = torch.linalg.svd(found.double(), full_matrices=False)
    kept = (u[..., :2] * s[:, None, :2]) @ vh[:, :2]
    weights = torch.full((4, 5), 0.2)
    got = log_likelihoods(inputs, weights, fitted(found, 0.1, rank=2))
    wanted = expected(inputs, weights, kept, found.square().sum((1, 2)), 0.1)
    torch.testing.assert_close(got.double(), wanted, rtol=2e-5, atol=2e-5)


def test_padding_does_not_count() -> None:
    inputs = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(3))
    weights = torch.cat([torch.full((3, 4), 0.25), torch.zeros(3, 2)], 1)
    gaussians = fitted(deltas(4, 9, 7), 0.1)
    short = log_likelihoods(inputs[:, :4], weights[:, :4], gaussians)
    inputs[:, 4:] = 1e4
    torch.testing.assert_close(log_likelihoods(inputs, weights, gaussians), short)


def test_both_orders_of_the_products_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.randn(6, 5, 12, generator=torch.Generator().manual_seed(4))
    weights, gaussians = torch.full((6, 5), 0.2), fitted(deltas(7, 20, 12), 0.1)
    found = []
    for order in (True, False):
        for entries in (1, 1 << 20):
            monkeypatch.setattr("tsv_exp.routing.gaussian.by_moments", lambda *_, order=order: order)
            monkeypatch.setattr("tsv_exp.routing.gaussian._ENTRIES", entries)
            found.append(log_likelihoods(inputs, weights, gaussians))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


def test_moments_pay_for_many_tasks_of_full_rank_and_not_for_thin_factors() -> None:
    assert by_moments(256, 50, 20, 768, 768)
    assert not by_moments(256, 50, 20, 8, 768)


def test_a_task_that_leaves_the_layer_unchanged_is_neutral() -> None:
    found = deltas(4, 9, 7)
    found[2] = 0
    inputs = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(5))
    got = log_likelihoods(inputs, torch.full((3, 6), 1 / 6), fitted(found, 0.1))
    others = got[:, [0, 1, 3]]
    torch.testing.assert_close(got[:, 2], others.mean(1))
    assert got.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_in_half_precision(dtype: torch.dtype) -> None:
    inputs = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(6)).to(dtype)
    weights, gaussians = torch.full((3, 6), 1 / 6), fitted(deltas(4, 9, 7), 0.1)
    got = log_likelihoods(inputs, weights, gaussians)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, log_likelihoods(inputs.float(), weights, gaussians))


def test_inputs_of_zeros_and_no_inputs() -> None:
    gaussians = fitted(deltas(4, 9, 7), 0.1)
    assert log_likelihoods(torch.zeros(2, 3, 7), torch.full((2, 3), 1 / 3), gaussians).isfinite().all()
    assert log_likelihoods(torch.zeros(0, 3, 7), torch.zeros(0, 3), gaussians).shape == (0, 4)


def test_the_task_whose_inputs_they_are_wins() -> None:
    generator = torch.Generator().manual_seed(7)
    spans = torch.randn(3, 4, 16, generator=generator)
    found = torch.randn(3, 30, 4, generator=generator) @ spans
    for task in range(3):
        inputs = torch.randn(20, 5, 4, generator=generator) @ spans[task]
        got = log_likelihoods(inputs, torch.full((20, 5), 0.2), fitted(found, 0.1))
        assert (got.argmax(1) == task).all()
