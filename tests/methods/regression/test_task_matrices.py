"""WUDI-Merging and its closed forms against direct float64 computations of the objective."""

import math

import pytest
import torch
from models import matrix

from tsv_exp import UserError, merge
from tsv_exp.methods.regression.task_matrices import ace, swudi, wudi, wudi_closed


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


def quadratic(parts):
    """A and C of the objective, whose gradient is 2 (M A − C)."""
    units = parts / parts.flatten(1).norm(dim=1)[:, None, None]
    return sum(u.mT @ u for u in units), sum(p @ u.mT @ u for p, u in zip(parts, units, strict=True))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("time", [0.3, 20.0])
def test_swudi_is_gradient_flow_from_the_sum(time, rank):
    parts = deltas(rank=rank)
    (a, c), start, n = quadratic(parts), parts.sum(0), parts.shape[-1]
    system = torch.zeros(2 * n, 2 * n, dtype=a.dtype)  # M' = C − M A: M = M(0) e^{−A t} + C ∫ e^{−A t} dt
    system[:n, :n], system[:n, n:] = -a, torch.eye(n, dtype=a.dtype)
    flow = torch.linalg.matrix_exp(time * system)
    reached = start @ flow[:n, :n] + c @ flow[:n, n:]
    torch.testing.assert_close(swudi(parts, time, 1.0), reached, rtol=1e-9, atol=1e-11)
    top = torch.linalg.eigh(a).eigenvectors[:, -5:]  # ⌈0.5 · 9⌉: the others stay as in the sum
    expected = start + (reached - start) @ top @ top.mT
    torch.testing.assert_close(swudi(parts, time, 0.5), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rank", [None, 2])
def test_adaptive_swudi_solves_for_as_many_directions_as_take_part(rank):
    parts = deltas(rank=rank)
    (a, c), start = quadratic(parts), parts.sum(0)
    values, vectors = torch.linalg.eigh(a)
    roots = values.clamp(min=0).sqrt()
    count = math.ceil(roots.sum() ** 2 / roots.square().sum() - 1e-6)
    assert 1 < count < 9
    top = vectors[:, -count:]
    solved = (c - start @ a) @ top / values[-count:]  # the change after which the gradient M A − C is 0 along them
    found = swudi(parts, None, None)
    torch.testing.assert_close(found, start + solved @ top.mT, rtol=1e-9, atol=1e-9)
    assert ((found @ a - c) @ top).abs().max() < 1e-9


def test_swudi_becomes_the_minimizer_and_scales_with_the_deltas():
    parts = deltas()
    torch.testing.assert_close(swudi(parts, 1e9, 1.0), wudi_closed(parts, 0.0), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(swudi(parts, None, 1.0), wudi_closed(parts, 0.0), rtol=1e-8, atol=1e-8)
    for options in ((), (None, None)):
        torch.testing.assert_close(swudi(1e-3 * parts, *options), 1e-3 * swudi(parts, *options), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("params", [{"time": 0}, {"rank_fraction": 0}, {"rank_fraction": 1.5}])
def test_parameters_of_swudi_have_a_domain(params):
    with pytest.raises(UserError, match=next(iter(params))):
        swudi(deltas(), **params)


@pytest.mark.parametrize("method", ["wudi", "wudi_closed", "swudi", "aswudi", "actmat", "ace"])
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
    with pytest.raises(UserError, match="ridge=inf"):
        wudi_closed(torch.ones(2, 3, 3), float("inf"))


@pytest.mark.parametrize("params", [{"iterations": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"lr": float("inf")}])
def test_parameters_of_wudi_have_a_domain(params):
    with pytest.raises(UserError, match=f"{next(iter(params))}="):
        wudi(torch.ones(2, 3, 3), **params)


def ace_by_its_definition(parts, epsilon, heterogeneity, refined):
    """With explicit inverses and sums over tasks; also says whether the layer is heterogeneous."""
    count, m, n = parts.shape
    logs = [float((part @ part.mT).trace().log()) for part in parts]
    middle = sum(logs) / count
    uneven = sum((x - middle) ** 2 for x in logs) / (count - 1) / middle**2 > heterogeneity
    centred = [part - part.mean(0, keepdim=True) for part in parts]
    own = [part.mT @ part for part in centred]
    traces = [float(one.trace()) if uneven else 1.0 for one in own]
    own = [one / trace for one, trace in zip(own, traces, strict=True)]
    margins = [epsilon / trace * torch.eye(n, dtype=parts.dtype) for trace in traces]
    whole = [one + margin for one, margin in zip(own, margins, strict=True)]
    row = sum(own).sum(0) / n / (sum(float(part.square().sum()) for part in parts) / count if uneven else 1)
    system = sum(whole) + torch.ones(n, 1, dtype=parts.dtype) @ row[None]
    merged = sum(part @ one for part, one in zip(centred, whole, strict=True)) @ torch.linalg.inv(system)
    if uneven:
        mean = sum(whole) / count
        u, s, vh = torch.linalg.svd(merged + sum(p @ (one - mean) for p, one in zip(parts, own, strict=True)), False)
        k = int(refined * min(m, n))
        merged = merged + s[:k].mean() * u[:, :k] @ vh[:k]
    return merged, uneven


@pytest.mark.parametrize("shape", [(14, 9), (9, 14), (10, 10)])
@pytest.mark.parametrize(("scales", "uneven"), [((0.1, 0.11, 0.12), False), ((0.01, 1.0, 3.0), True)])
def test_ace_is_what_its_authors_compute(shape, scales, uneven):
    g = torch.Generator().manual_seed(2)
    parts = torch.stack([scale * matrix(*shape, g) for scale in scales])
    expected, found_uneven = ace_by_its_definition(parts, 0.01, 0.3, 0.3)
    assert found_uneven == uneven
    torch.testing.assert_close(ace(parts), expected, rtol=1e-6, atol=1e-8)
    zero = torch.cat([parts, torch.zeros(1, *shape, dtype=parts.dtype)])
    torch.testing.assert_close(ace(zero), expected, rtol=1e-6, atol=1e-8)
    changed, _ = ace_by_its_definition(parts, 0.2, 0.001, 0.6)
    torch.testing.assert_close(ace(parts, 0.2, 0.001, 0.6), changed, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("params", [{"epsilon": 0}, {"heterogeneity": -1}, {"refined": 2}])
def test_parameters_of_ace_have_a_domain(params):
    with pytest.raises(UserError, match=next(iter(params))):
        ace(deltas(), **params)
