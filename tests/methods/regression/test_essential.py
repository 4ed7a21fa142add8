"""Essential subspace merging against its definition on the inputs themselves, in float64."""

import pytest
import torch
from models import matrix, zoo

from tsv_exp import Method, UserError, merge
from tsv_exp.merge_files.options.options import parse
from tsv_exp.merge_files.options.rules import Plan
from tsv_exp.methods import esm, scale_layers, tsv_m


def deltas(tasks=3, m=12, n=15, dtype=torch.float64):
    g = torch.Generator().manual_seed(5)
    return torch.stack([(i + 1) * matrix(m, n, g) for i in range(tasks)]).to(dtype)


def rows(tasks=3, count=80, n=15):
    g = torch.Generator().manual_seed(1)
    spread = torch.logspace(0, -1, n, dtype=torch.float64)
    return torch.randn(tasks, count, n, generator=g, dtype=torch.float64) * spread


def moments_of(x):
    return x.mT @ x / x.shape[1]


def polar(x):
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    kept = values > 1e-10 * values[0]
    return left[:, kept] @ right[kept], values.mean()


def expected(parts, x, power=2.0, weighting=0.15):
    """By singular value decompositions of the changes of the outputs, column by column."""
    count = parts.shape[1] // len(parts)
    norms = torch.stack([torch.linalg.matrix_norm(part) for part in parts])
    left, right = [], []
    for part, inputs, norm in zip(parts, x, norms, strict=True):
        _, values, vh = torch.linalg.svd(inputs @ part.mT, full_matrices=False)
        energies = values[:count].square()
        weights = (energies / energies.mean()) ** weighting
        weights = weights / weights.mean()
        for j in range(count):
            left.append(weights[j] * vh[j])
            right.append(weights[j] * (vh[j] @ part) * (norm / norms.mean()) ** power)
    u, v = torch.stack(left, 1), torch.stack(right)
    columns = v.norm(dim=0)
    v = v * (columns / columns.mean()) ** power
    (first, one), (second, two) = polar(u), polar(v)
    return 2 * one * two * first @ second


@pytest.mark.parametrize("shape", [(12, 15), (15, 12), (13, 13)])
@pytest.mark.parametrize(("power", "weighting"), [(2.0, 0.15), (0.0, 0.0), (1.0, 0.5)])
def test_it_is_its_definition(shape, power, weighting):
    parts, x = deltas(3, *shape), rows(n=shape[1])
    found = esm(parts, moments_of(x), power, weighting)
    torch.testing.assert_close(found, expected(parts, x, power, weighting), rtol=1e-8, atol=1e-10)
    single = esm(parts.float(), moments_of(x).float(), power, weighting)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, rtol=1e-3, atol=1e-3 * float(found.abs().max()))


def test_tasks_and_inputs_without_a_part_have_none():
    parts, x = deltas(), rows()
    parts[1] = 0
    found = esm(parts, moments_of(x))
    assert found.isfinite().all()
    assert not esm(torch.zeros(3, 12, 15), moments_of(x)).any()
    few = esm(parts, moments_of(rows(count=2)))  # two directions of each task are seen, not four
    assert few.isfinite().all()
    assert int(torch.linalg.matrix_rank(few)) == 4


def test_the_matrices_of_a_kind_are_scaled_by_their_norms():
    assert scale_layers([1.0, 3.0]) == [0.25, 2.25]
    assert scale_layers([0.0, 0.0]) == [1.0, 1.0]
    base, finetuned = zoo(2)
    for model in (base, *finetuned.values()):
        model["blocks.0.fc.weight"] = model["tall.weight"].clone()
        model["blocks.1.fc.weight"] = 3 * model["tall.weight"]
    moments = {name: moments_of(rows(2, 60, 24)) for name in ("blocks.0.fc.weight", "blocks.1.fc.weight")}
    found = merge(base, finetuned, "esm", moments=moments).vector()
    plain = {
        name: esm(torch.stack([model[name] - base[name] for model in finetuned.values()]), moments[name])
        for name in moments
    }
    mean = sum(float(one.norm()) for one in plain.values()) / 2
    for name, one in plain.items():
        torch.testing.assert_close(found[name], one * float(one.norm() / mean) ** 2)
    # inputs of this layer were not captured, and it is the only one of its kind
    parts = torch.stack([model["tall.weight"] - base["tall.weight"] for model in finetuned.values()])
    torch.testing.assert_close(found["tall.weight"], tsv_m(parts))


def test_errors_are_one_line(tmp_path):
    base, finetuned = zoo(2)
    with pytest.raises(UserError, match=r"method esm needs second moments .* inputs=validation"):
        merge(base, finetuned, "esm")
    with pytest.raises(UserError, match="power=-1"):
        esm(deltas(), moments_of(rows()), -1)
    own = {"name": "mine", "_target_": "tsv_exp.methods.task_arithmetic", "across": "tests_of.nothing"}
    with pytest.raises(UserError, match=r"method mine: cannot import 'tests_of\.nothing'"):
        Method.from_config(own)
    wrong = Method.from_config({**own, "across": "builtins.len"})
    with pytest.raises(UserError, match="method mine: across returned"):
        merge(base, finetuned, wrong)
    with pytest.raises(UserError, match=r"method esm needs inputs, and tsv-merge .* tsv-exp with save_merged=true"):
        Plan.of(parse(["base=a.pt", "models=[b.pt]", f"out={tmp_path}", "method=esm"]))
