"""RegMean against least squares on the inputs themselves, in float64."""

import pytest
import torch
from models import matrix, zoo

from tsv_exp import Method, UserError, merge
from tsv_exp.methods.regression.regmean import regmean


def deltas(tasks=3, m=14, n=9, dtype=torch.float64):
    g = torch.Generator().manual_seed(5)
    return torch.stack([(i + 1) * matrix(m, n, g) for i in range(tasks)]).to(dtype)


def rows(tasks=3, count=40, n=9, seed=1):
    g = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0, -2, n, dtype=torch.float64)
    return torch.randn(tasks, count, n, generator=g, dtype=torch.float64) * spread


def moments_of(x):
    return x.mT @ x / x.shape[1]


@pytest.mark.parametrize("shape", [(14, 9), (9, 14)])
def test_it_is_least_squares_on_the_outputs(shape):
    parts, x = deltas(3, *shape), rows(n=shape[1])
    outputs = torch.cat([inputs @ part.mT for inputs, part in zip(x, parts, strict=True)])
    expected = torch.linalg.lstsq(x.flatten(0, 1), outputs, driver="gelsd").solution.mT
    torch.testing.assert_close(regmean(parts, moments_of(x), 1.0), expected, rtol=1e-6, atol=1e-8)


def test_entries_off_the_diagonal_count_less():
    parts, moments = deltas(), moments_of(rows())
    reduced = [torch.where(torch.eye(9) > 0, one, 0.3 * one) for one in moments]
    target = sum(part @ one for part, one in zip(parts, reduced, strict=True))
    torch.testing.assert_close(
        regmean(parts, moments, 0.3), target @ torch.linalg.inv(sum(reduced)), rtol=1e-8, atol=1e-10
    )


def test_fewer_inputs_than_directions_dead_inputs_and_equal_tasks():
    parts, x = deltas(), rows(count=2)
    x[..., 4] = 0
    found = regmean(parts.float(), moments_of(x).float(), 1.0).double()
    assert found.isfinite().all()
    assert float(found[:, 4].abs().max()) < 1e-10, "no input has this direction"
    for part, inputs in zip(parts, x, strict=True):  # 6 inputs in 8 directions: every output can be met
        torch.testing.assert_close(inputs @ found.mT, inputs @ part.mT, rtol=1e-2, atol=1e-3)
    same = parts[:1].expand(4, -1, -1)
    torch.testing.assert_close(regmean(same, moments_of(rows(4)), 0.9), parts[0], rtol=1e-8, atol=1e-10)
    assert not regmean(parts, torch.zeros(3, 9, 9, dtype=torch.float64)).any()


def test_layers_without_moments_are_averaged():
    base, finetuned = zoo(3)
    moments = {"tall.weight": moments_of(rows(3, 60, 24))}
    found = merge(base, finetuned, "regmean", moments=moments).vector()
    mean = merge(base, finetuned, "weight_average").vector()
    parts = torch.stack([model["tall.weight"] - base["tall.weight"] for model in finetuned.values()])
    torch.testing.assert_close(found["tall.weight"], regmean(parts, moments["tall.weight"]))
    for name in found.keys() - {"tall.weight"}:
        torch.testing.assert_close(found[name], mean[name])


@pytest.mark.parametrize(
    "wrong",
    [
        torch.eye(24).expand(2, -1, -1),
        torch.eye(23).expand(3, -1, -1),
        torch.eye(24),
        torch.eye(24).expand(3, -1, -1) * torch.nan,
        torch.eye(24).int().expand(3, -1, -1),
        torch.eye(24).expand(3, -1, -1).numpy(),
    ],
    ids=["tasks", "inputs", "matrix", "nan", "integers", "array"],
)
def test_moments_that_do_not_fit_are_named(wrong):
    base, finetuned = zoo(3)
    with pytest.raises(UserError, match=r"moments of layer 'tall.weight': got .*; give a tensor \(3, 24, 24\)"):
        merge(base, finetuned, "regmean", moments={"tall.weight": wrong})


def test_moments_of_an_unknown_layer_are_refused():
    base, finetuned = zoo(3)
    with pytest.raises(UserError, match=r"moments: tall: the models have no such layer"):
        merge(base, finetuned, "regmean", moments={"tall": torch.eye(24).expand(3, -1, -1)})


def test_errors_are_one_line():
    base, finetuned = zoo(2)
    with pytest.raises(UserError, match=r"method regmean needs second moments .* inputs=validation"):
        merge(base, finetuned, "regmean")
    with pytest.raises(UserError, match="off_diagonal=2"):
        regmean(deltas(), moments_of(rows()), 2)
    config = {"name": "mine", "_target_": "tsv_exp.methods.regmean", "moments": 3}
    with pytest.raises(UserError, match="method mine: moments is not a parameter"):
        Method.from_config(config)
    plus = {"name": "mine", "_target_": "tsv_exp.methods.regmean", "features": "merged"}
    with pytest.raises(UserError, match="method mine: features=base; choose from: own, merged"):
        Method.from_config({**plus, "features": "base"})
    with pytest.raises(UserError, match="method mine: features=merged merges block by block, without prepare and acro"):
        Method.from_config({**plus, "across": "tsv_exp.methods.regression.essential.scale_layers"})
