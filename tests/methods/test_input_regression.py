"""WUDI-Merging and its closed forms against direct float64 computations of the objective."""

import pytest
import torch
from models import matrix

from tsv_exp import UserError, merge
from tsv_exp.methods.input_regression import wudi, wudi_closed


def deltas(tasks=3, m=14, n=9, dtype=torch.float64, rank=None):
    g = torch.Generator().manual_seed(5)
    return torch.stack([(i + 1) * matrix(m, n, g, rank=rank) for i in range(tasks)]).to(dtype)


def objective(merged, parts, normalize=True):
    weights = parts.flatten(1).square().sum(1) if normalize else torch.ones(len(parts), dtype=parts.dtype)
    return (((merged - parts) @ parts.mT).square() / weights[:, None, None]).sum()


def test_iterations_are_those_of_adam_on_the_objective():
    parts = deltas()
    expected = torch.nn.Parameter(parts.sum(0).clone())
    optimizer = torch.optim.Adam([expected], lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        objective(expected, parts).backward()
        optimizer.step()
    torch.testing.assert_close(wudi(parts, 40, 1e-2), expected.detach(), rtol=1e-9, atol=1e-9)
    assert objective(wudi(parts, 40, 1e-2), parts) < objective(parts.sum(0), parts)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [(14, 9), (9, 14), (10, 10)])
def test_without_a_ridge_nothing_is_better(shape, normalize):
    parts = deltas(3, *shape)
    found = wudi_closed(parts, 0.0, normalize)
    rows = (parts / (parts.flatten(1).norm(dim=1)[:, None, None] if normalize else 1)).flatten(0, 1)
    weights = torch.cat([part / (part.norm() if normalize else 1) for part in parts])
    targets = torch.cat([part @ (part / (part.norm() if normalize else 1)).mT for part in parts], 1)
    expected = torch.linalg.lstsq(weights, targets.mT, driver="gelsd").solution.mT  # (M Dᵀ = Δ Dᵀ for all tasks)
    assert rows.shape == weights.shape
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_the_ridge_is_relative_to_the_mean_eigenvalue():
    parts = deltas()
    units = parts / parts.flatten(1).norm(dim=1)[:, None, None]
    a = sum(u.mT @ u for u in units)
    c = sum(p @ u.mT @ u for p, u in zip(parts, units, strict=True))
    expected = c @ torch.linalg.inv(a + 0.1 * a.trace() / 9 * torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close(wudi_closed(parts, 0.1), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["wudi", "wudi_closed", "actmat"])
def test_low_rank_zero_and_single_precision_tasks_stay_finite(method):
    parts = torch.cat([deltas(2, rank=2), torch.zeros(1, 14, 9, dtype=torch.float64)]).float()
    base = {"w": torch.zeros(14, 9)}
    found = merge(base, {f"t{i}": {"w": part} for i, part in enumerate(parts)}, method).vector()["w"]
    assert found.isfinite().all()
    nothing = merge(base, {"a": {"w": torch.zeros(14, 9)}}, method).vector()["w"]
    assert not nothing.any()


def test_one_task_is_itself():
    parts = deltas(1)
    torch.testing.assert_close(wudi_closed(parts, 0.0), parts[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(wudi(parts, 5), parts[0], rtol=0, atol=1e-4)


def test_a_negative_ridge_is_refused():
    with pytest.raises(UserError, match="ridge=-1"):
        wudi_closed(deltas(), -1)
