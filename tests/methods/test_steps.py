"""Steps before and after a method, against float64 computations of their formulas one direction at a time."""

import pytest
import torch
from models import matrix, zoo
from torch.linalg import svd

from tsv_exp import Method, UserError, apply, merge
from tsv_exp.methods.steps.after import flatten, subspace_boosting, svc
from tsv_exp.methods.steps.before import marchenko_pastur, marchenko_pastur_median


def tasks(count=3, m=14, n=9, rank=None, seed=5):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([(i + 1) * matrix(m, n, g, rank=rank) for i in range(count)])


def calibrated(merged, deltas, floor):
    u, s, vh = svd(merged, full_matrices=False)
    found = torch.zeros_like(merged)
    for r in range(int((s > 1e-12 * s[0]).sum())):
        shares = []
        for delta in deltas:
            a = u[:, r] @ delta
            share = float((u[:, r] @ merged) @ a / (a @ a)) if float(a.norm()) > 1e-12 * float(delta.norm()) else 0.0
            shares.append(max(floor, share))
        found += s[r] * len(deltas) / sum(shares) * torch.outer(u[:, r], vh[r])
    return found


@pytest.mark.parametrize("floor", [0.2, 1.0])
@pytest.mark.parametrize("shape", [(14, 9), (9, 14), (10, 10)])
def test_calibration_is_that_of_the_paper(shape, floor):
    deltas = tasks(4, *shape)
    for merged in (deltas.sum(0), deltas[0] - deltas[1]):
        torch.testing.assert_close(svc(merged, deltas, floor), calibrated(merged, deltas, floor), rtol=1e-9, atol=1e-10)


def test_calibration_of_low_rank_zero_opposed_and_equal_tasks():
    low, zero, other = tasks(2, rank=2), torch.zeros(1, 14, 9, dtype=torch.float64), tasks(1, rank=3, seed=6)
    deltas = torch.cat([low, zero, other])
    torch.testing.assert_close(
        svc(deltas.sum(0), deltas), calibrated(deltas.sum(0), deltas, 1.0), rtol=1e-8, atol=1e-10
    )
    single = svc(deltas.float().sum(0), deltas.float())
    torch.testing.assert_close(single.double(), calibrated(deltas.sum(0), deltas, 1.0), rtol=1e-3, atol=1e-4)
    same = tasks(1).expand(5, -1, -1)
    torch.testing.assert_close(svc(same.sum(0), same), same[0], rtol=1e-9, atol=1e-10)
    assert not svc(low[0] - low[0], low).any()


def test_a_mean_with_the_floor_of_a_mean_is_calibrated_as_the_sum():
    deltas = tasks(4)
    torch.testing.assert_close(svc(deltas.mean(0), deltas, 0.25), svc(deltas.sum(0), deltas), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("beta", [0, 0.01, 0.4, 1])
@pytest.mark.parametrize("rank", [None, 4])
def test_boosting_raises_what_is_below_the_share(beta, rank):
    merged = tasks(2, rank=rank).sum(0)
    u, s, vh = svd(merged, full_matrices=False)
    s = s[s > 1e-12 * s[0]]
    cut, reached = 0, float(s[0])
    while reached < beta * float(s.sum()) - 1e-12:
        cut += 1
        reached += float(s[cut])
    raised = torch.tensor([max(float(value), float(s[cut])) for value in s], dtype=torch.float64)
    expected = u[:, : len(s)] @ raised.diag() @ vh[: len(s)]
    torch.testing.assert_close(subspace_boosting(merged, merged, beta), expected, rtol=1e-9, atol=1e-10)


def test_steps_of_a_zero_matrix_are_zero():
    zero = torch.zeros(5, 4)
    for step in (svc, subspace_boosting, flatten):
        assert not step(zero, zero.expand(3, -1, -1)).any()
    assert not marchenko_pastur(zero.expand(3, -1, -1)).any()


@pytest.mark.parametrize("shape", [(160, 160), (100, 200), (300, 60)])
def test_the_median_and_the_edge_are_those_of_random_matrices(shape):
    g = torch.Generator().manual_seed(0)
    m, n = max(shape), min(shape)
    values = torch.linalg.svdvals(torch.randn(8, m, n, generator=g, dtype=torch.float64))
    medians = values.square().quantile(0.5, dim=1) / m
    assert float(medians.mean()) == pytest.approx(marchenko_pastur_median(n / m), rel=0.02)
    noise = 0.3 * torch.randn(1, *shape, generator=g, dtype=torch.float64)
    assert float(marchenko_pastur(noise).norm()) < 0.2 * float(noise.norm()), "at most the largest value exceeds it"


def test_the_median_of_square_matrices_is_the_published_one():
    assert marchenko_pastur_median(1.0) == pytest.approx((4 / 3**0.5 / 2.858) ** 2, rel=1e-3)  # arXiv 1305.5870, eq. 5
    assert marchenko_pastur_median(1e-8) == pytest.approx(1, rel=1e-3)


def test_each_task_keeps_its_own_number_of_components_above_noise():
    g = torch.Generator().manual_seed(1)
    noise = 0.01 * torch.randn(2, 120, 80, generator=g, dtype=torch.float64)
    signals = torch.stack([matrix(120, 80, g, power=0, rank=rank) for rank in (3, 7)])
    kept = marchenko_pastur(signals + noise)
    assert [int(torch.linalg.matrix_rank(one, rtol=1e-9)) for one in kept] == [3, 7]
    for one, whole, rank in zip(kept, signals + noise, (3, 7), strict=True):
        u, s, vh = svd(whole, full_matrices=False)
        torch.testing.assert_close(one, u[:, :rank] @ s[:rank].diag() @ vh[:rank], rtol=1e-9, atol=1e-12)
    low = tasks(2, rank=3)
    torch.testing.assert_close(marchenko_pastur(low), low, rtol=1e-9, atol=1e-12)


def vectors(method, base, finetuned, **params):
    return merge(base, finetuned, method, **params).vector()


def test_steps_make_methods_of_other_methods():
    base, finetuned = zoo(3)
    pairs = [
        (("task_arithmetic", {"before": [{"drop": {"drop_rate": 0.6, "seed": 2}}]}), ("dare", (0.6, 2))),
        (("ties", {"before": [{"drop": {"drop_rate": 0.6, "seed": 2}}]}), ("dare_ties", (0.6, 2))),
    ]
    for (method, steps), (other, (rate, seed)) in pairs:
        found, expected = (
            vectors(method, base, finetuned, **steps),
            vectors(other, base, finetuned, drop_rate=rate, seed=seed),
        )
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-14)
    found = vectors("task_arithmetic", base, finetuned, before=["truncate"])
    expected = vectors("tsv_m_no_orthogonalization", base, finetuned)
    flat, iso = vectors("task_arithmetic", base, finetuned, after=["flatten"]), vectors("iso_c", base, finetuned)
    for name in ("tall.weight", "wide.weight", "square.weight"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(flat[name], iso[name], rtol=1e-9, atol=1e-12)
    sums = vectors("task_arithmetic", base, finetuned)
    for name in ("norm.bias", "conv.weight", "text_projection"):
        assert torch.equal(flat[name], sums[name]), "a step for matrices leaves other layers alone"


def test_ranks_by_the_edge_are_tsv_m_of_what_is_above_it():
    base, finetuned = zoo(3)
    found = vectors("tsv_m_marchenko_pastur", base, finetuned)
    deltas = torch.stack([model["tall.weight"] - base["tall.weight"] for model in finetuned.values()])
    parts = [svd(one, full_matrices=False) for one in marchenko_pastur(deltas)]
    ranks = [int((s > 1e-9).sum()) for _, s, _ in parts]
    left, _, right = svd(torch.cat([u[:, :k] for (u, _, _), k in zip(parts, ranks, strict=True)], 1), False)
    below, _, above = svd(torch.cat([vh[:k] for (_, _, vh), k in zip(parts, ranks, strict=True)]), False)
    s = torch.cat([s[:k] for (_, s, _), k in zip(parts, ranks, strict=True)])
    torch.testing.assert_close(found["tall.weight"], left @ right @ s.diag() @ below @ above, rtol=1e-8, atol=1e-10)


def test_steps_apply_in_order_to_the_models_own_deltas_and_keep_the_dtype():
    base, finetuned = zoo(2, torch.bfloat16)
    merged = merge(base, finetuned, "tsv_m", before=["drop"], after=[{"svc": {"floor": 0.5}}, "flatten"])
    deltas = torch.stack([(m["tall.weight"].float() - base["tall.weight"].float()) for m in finetuned.values()])
    plain = vectors("tsv_m", base, finetuned, before=["drop"])["tall.weight"]
    torch.testing.assert_close(merged.vector()["tall.weight"], flatten(svc(plain, deltas, 0.5), deltas))
    assert apply(base, merged)["tall.weight"].dtype == torch.bfloat16
    assert merged.params["after"] == [{"svc": {"floor": 0.5}}, "flatten"]
    assert vectors("tsv_m", base, finetuned, after=[]).keys() == base.keys() - {"position_ids"}


@pytest.mark.parametrize("method", ["task_arithmetic", "iso_c"])
def test_every_expert_of_a_stack_is_a_matrix(method):
    base = {"mlp.experts.gate_proj": torch.zeros(3, 8, 6, dtype=torch.float64)}
    models = {f"t{i}": {"mlp.experts.gate_proj": tasks(3, 8, 6, seed=i)} for i in range(2)}
    steps = {"before": ["truncate", "smooth"], "after": ["svc", "mean_norm"]}
    found = vectors(method, base, models, **steps)["mlp.experts.gate_proj"]
    for expert in range(3):
        alone = {name: {"w": model["mlp.experts.gate_proj"][expert]} for name, model in models.items()}
        one = vectors(method, {"w": torch.zeros(8, 6).double()}, alone, **steps)["w"]
        torch.testing.assert_close(found[expert], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"after": "svc"}, "after=svc: give a list of steps"),
        ({"after": 3}, "after=3: give a list"),
        ({"after": ["svcc"]}, "after has no step 'svcc'; choose from: flatten, mean_norm, subspace_boosting, svc"),
        ({"after": ["drop"]}, "drop is a step of before"),
        ({"before": [{"drop": {"rate": 0.1}}]}, "it has no 'rate'; it has: "),
        ({"before": [{"drop": {"drop_rate": "x"}}]}, "drop_rate='x' does not fit"),
        ({"before": [{"drop": 0.5}]}, "give a list of steps"),
        ({"before": [{"drop": {}, "truncate": {}}]}, "give a list of steps"),
        ({"before": ["torch.mean"]}, r"a step of before takes \(deltas, ...\)"),
        ({"before": ["os.system"]}, "cannot be a method"),
        ({"before": ["no_such.module"]}, "cannot import"),
        ({"after": [{"svc": {"floor": 0}}]}, "floor=0"),
        ({"after": [{"subspace_boosting": {"beta": 2}}]}, "beta=2"),
        ({"before": [{"truncate": {"rank_fraction": 3}}]}, "rank_fraction=3"),
        ({"step": []}, "has no parameter 'step'; it has: rank_fraction, before, after"),
    ],
)
def test_errors_are_one_line(steps, message):
    base, finetuned = zoo(2)
    with pytest.raises(UserError, match=message) as caught:
        merge(base, finetuned, "tsv_m", **steps)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["tsv_c", "tall_mask", "individual"])
def test_a_model_for_each_task_takes_no_step_after(method):
    base, finetuned = zoo(2)
    with pytest.raises(UserError, match=f"method {method} has a model for each task"):
        merge(base, finetuned, method, after=["svc"])
    assert merge(base, finetuned, method, before=["truncate"]).per_task


def wrong_shape(deltas):
    return deltas[0]


def with_nan(merged, deltas):
    return merged * float("nan")


def takes_before(deltas, before=1):
    return deltas.sum(0)


def test_steps_of_ones_own(monkeypatch):
    import sys

    module = type(sys)("own_steps")
    module.wrong_shape, module.with_nan, module.takes_before = wrong_shape, with_nan, takes_before
    monkeypatch.setitem(sys.modules, "own_steps", module)
    base, finetuned = zoo(2)
    with pytest.raises(UserError, match=r"step own_steps.wrong_shape, layer 'tall.weight': it returned shape"):
        merge(base, finetuned, "tsv_m", before=["own_steps.wrong_shape"])
    with pytest.raises(UserError, match=r"step own_steps.with_nan, .* NaN"):
        merge(base, finetuned, "tsv_m", after=["own_steps.with_nan"])
    with pytest.raises(UserError, match="its function has a parameter 'before'"):
        Method.from_config({"name": "mine", "_target_": "own_steps.takes_before"})


def test_the_per_task_parameter_is_chosen_with_the_steps_before():
    method = Method.load("consensus_ta").with_params(before=["drop"], after=["svc"])
    assert method.tuner(0.3).before == method.before
    assert not method.tuner(0.3).after
    assert not method.merges_products
