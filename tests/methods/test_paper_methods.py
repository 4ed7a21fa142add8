import math

import pytest
import textbook
import torch
from models import close, matrix, zoo

from tsv_exp import UserError, merge
from tsv_exp.decompositions.fast import FastAlgebra
from tsv_exp.methods.singular_vectors import tsv_m

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 1e-4}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
SHARED = {
    "zero_shot": textbook.zero_shot,
    "weight_average": textbook.weight_average,
    "task_arithmetic": textbook.task_arithmetic,
    "ties": textbook.ties,
    "consensus_ta": lambda taus: textbook.consensus_ta(taus, [0.4] * len(taus)),
    "tsv_m": lambda taus: textbook.tsv_m(taus, eps=2**-23),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize("method", SHARED)
def test_shared_methods_match_the_textbook(method, tasks, dtype):
    base, finetuned = zoo(tasks, dtype)
    merged = merge(base, finetuned, method)
    close(merged.vector(), SHARED[method](textbook.task_vectors(base, finetuned)), TOLERANCE[dtype])
    assert not merged.per_task


@pytest.mark.parametrize("dtype", DTYPES)
def test_methods_per_task_match_the_textbook(dtype):
    base, finetuned = zoo(4, dtype)
    taus = textbook.task_vectors(base, finetuned)
    lambdas = [0.2, 0.3, 0.5, 0.6]
    expected = {
        "individual": taus,
        "tsv_c": textbook.tsv_c(taus, eps=2**-23),
        "tall_mask": textbook.tall_mask(taus, lambdas),
    }
    for method, models in expected.items():
        merged = merge(base, finetuned, method, **({"lambda_": lambdas} if method == "tall_mask" else {}))
        for task, model in zip(finetuned, models, strict=True):
            close(merged.vector(task), model, TOLERANCE[dtype])


@pytest.mark.parametrize("lambda_", [0.2, 0.3, 0.4, 0.5, 0.6])
def test_masks_at_each_lambda(lambda_):
    base, finetuned = zoo(5)
    taus = textbook.task_vectors(base, finetuned)
    one = merge(base, finetuned, "tall_mask", lambda_=lambda_)
    for task, model in zip(finetuned, textbook.tall_mask(taus, [lambda_] * 5), strict=True):
        close(one.vector(task), model, 1e-12)
    for threshold in (1, 2, 5):
        consensus = merge(base, finetuned, "consensus_ta", lambda_=lambda_, threshold=threshold)
        close(consensus.vector(), textbook.consensus_ta(taus, [lambda_] * 5, threshold), 1e-12)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1])
def test_ties_at_densities(density):
    base, finetuned = zoo(3)
    expected = textbook.ties(textbook.task_vectors(base, finetuned), density)
    close(merge(base, finetuned, "ties", density=density).vector(), expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ties_with_equal_magnitudes_at_the_cut_and_sums_of_zero(dtype):
    g = torch.Generator().manual_seed(1)
    base = {
        "a": torch.zeros(40, 5, dtype=dtype),
        "frozen": torch.zeros(7, dtype=dtype),
        "b": torch.zeros(11, dtype=dtype),
    }
    for _ in range(20):
        steps = {k: torch.randint(-3, 4, (3, *v.shape), generator=g) * (k != "frozen") for k, v in base.items()}
        finetuned = {f"t{i}": {k: (0.1 * v[i]).to(dtype) for k, v in steps.items()} for i in range(3)}
        expected = textbook.ties(textbook.task_vectors(base, finetuned))
        close(merge(base, finetuned, "ties").vector(), expected, 1e-6)


def test_ties_without_majority_keeps_negative_entries():
    base = {"w": torch.zeros(10)}
    finetuned = {"a": {"w": torch.tensor([3.0] + [0.0] * 9)}, "b": {"w": torch.tensor([-3.0] + [0.0] * 9)}}
    assert merge(base, finetuned, "ties", density=0.1).vector()["w"].tolist() == [-3.0] + [0.0] * 9


@pytest.mark.parametrize("rank_fraction", [0.01, 0.125, 0.5, 1.0])
def test_rank_fraction_with_concatenations_wider_than_the_layer(rank_fraction):
    base, finetuned = zoo(3)
    taus = textbook.task_vectors(base, finetuned)
    merged = merge(base, finetuned, "tsv_m", rank_fraction=rank_fraction)
    close(merged.vector(), textbook.tsv_m(taus, rank_fraction), 1e-6)
    compressed = merge(base, finetuned, "tsv_c", rank_fraction=rank_fraction)
    close(compressed.vector("task1"), textbook.tsv_c(taus, rank_fraction)[1], 1e-6)


@pytest.mark.parametrize(("shape", "tasks"), [((128, 96), 5), ((96, 128), 5), ((128, 128), 4), ((288, 256), 4)])
def test_certified_concatenations_wider_than_the_layer(shape, tasks):
    g = torch.Generator().manual_seed(0)
    deltas = torch.stack([matrix(*shape, g, dtype=torch.float32) for _ in range(tasks)])
    algebra, fraction = FastAlgebra(), 0.3
    assert tasks * int(fraction * min(shape)) > max(shape)
    got = tsv_m(deltas, fraction, algebra=algebra)
    expected = textbook.tsv_m([{"w": delta.double()} for delta in deltas], fraction, eps=2**-23)
    close({"w": got}, expected, 2e-5)
    assert (algebra.total, algebra.fallbacks) == (tasks + 2, 0)


def model_of(deltas, dtype):
    return {"w": torch.zeros(deltas[0].shape, dtype=dtype)}, {f"t{i}": {"w": d.to(dtype)} for i, d in enumerate(deltas)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_null_directions_contribute_nothing(dtype):
    g = torch.Generator().manual_seed(2)
    deltas = [matrix(48, 32, g, rank=r) for r in (4, 2, 32)] + [torch.zeros(48, 32)]
    base, finetuned = model_of(deltas, dtype)
    expected = textbook.tsv_m(textbook.task_vectors(base, finetuned), eps=torch.finfo(dtype).eps)
    close(merge(base, finetuned, "tsv_m").vector(), expected, TOLERANCE[dtype])


def test_layers_smaller_than_the_number_of_tasks_merge_to_zero():
    base, finetuned = model_of([torch.ones(3, 9) * i for i in range(1, 5)], torch.float32)
    assert not merge(base, finetuned, "tsv_m").vector()["w"].any()
    assert merge(base, finetuned, "tsv_m", rank_fraction=0.01).vector()["w"].any()


def test_repeated_singular_values_keep_the_invariants():
    g = torch.Generator().manual_seed(3)
    base, finetuned = model_of([matrix(40, 32, g, power=0) for _ in range(4)], torch.float32)
    merged = merge(base, finetuned, "tsv_m").vector()["w"]
    values = torch.linalg.svdvals(merged)
    torch.testing.assert_close(values, torch.ones(32), atol=1e-4, rtol=0)  # 4 × 8 components of σ = 1, orthogonalized
    assert torch.equal(merged, merge(base, finetuned, "tsv_m").vector()["w"])


def test_equal_tasks_are_rank_deficient_and_keep_the_invariants():
    delta = matrix(40, 32, torch.Generator().manual_seed(4))
    base, finetuned = model_of([delta] * 4, torch.float32)
    merged = merge(base, finetuned, "tsv_m").vector()["w"]
    assert merged.isfinite().all()
    # U = [U_1 U_1 U_1 U_1]: its polar factor has 8 singular values of 1, so the 8 components come out as they are.
    top = torch.linalg.svdvals(delta)[:8]
    torch.testing.assert_close(torch.linalg.svdvals(merged)[:8].double(), top, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("method", "params", "key"),
    [
        ("ties", {"density": 0}, "density"),
        ("ties", {"density": math.nan}, "density"),
        ("tsv_m", {"rank_fraction": 1.5}, "rank_fraction"),
        ("tsv_m", {"rank_fraction": "abc"}, r"rank_fraction='abc'.*give a number or null"),
        ("tsv_m", {"rank_fraction": True}, "rank_fraction=True"),
        ("ties", {"density": None}, "density=None"),
        ("consensus_ta", {"threshold": 1.5}, "threshold=1.5"),
        ("tall_mask", {"lambda_": "0.4"}, "lambda_='0.4'"),
        ("tall_mask", {"lambda_": [0.4, "much"]}, "lambda_="),
        ("tall_mask", {"lambda_": [0.4, 0.4]}, "lambda_"),
        ("tall_mask", {"lambda_": -1}, "lambda_"),
    ],
)
def test_parameters_outside_their_domain(method, params, key):
    base, finetuned = zoo(3)
    with pytest.raises(UserError, match=key):
        merge(base, finetuned, method, **params)
