"""What the regressions of this project share, against independent float64 computations and at the edges."""

import pytest
import regressions
import textbook
import torch
from models import close, zoo
from regressions import TOLERANCE, error, sample
from textbook import is_matrix, task_vectors

from tsv_exp import UserError, merge
from tsv_exp.config import Engine
from tsv_exp.methods.regression.iso_reg import iso_reg
from tsv_exp.methods.regression.white_reg import white_reg

METHODS = {iso_reg: regressions.iso_reg, white_reg: regressions.white_reg}
both = pytest.mark.parametrize(("method", "expected"), METHODS.items(), ids=["iso_reg", "white_reg"])
each = pytest.mark.parametrize("method", METHODS)


@pytest.mark.parametrize(("method", "svd_"), [(iso_reg, "auto"), (iso_reg, "exact"), (white_reg, "auto")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [2, 4, 12])
def test_models(tasks, dtype, method, svd_):
    base, finetuned = zoo(tasks, dtype)
    taus = task_vectors(base, finetuned)
    wanted = textbook.weight_average(taus)
    for name, first in taus[0].items():
        if is_matrix(name, first):
            wanted[name] = METHODS[method]([tau[name] for tau in taus])
    merged = merge(base, finetuned, method.__name__, engine=Engine(svd=svd_))
    assert not merged.per_task
    close(merged.vector(), wanted, TOLERANCE[dtype])


@both
@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
@pytest.mark.parametrize("rank", [1, 4, 12, 13])
def test_low_rank(rank, shape, method, expected):
    deltas = sample(6, *shape, rank=rank)
    wanted = expected(deltas)
    assert error(method(deltas), wanted) < 1e-9
    assert error(method(deltas.float()), wanted) < 3e-4  # rounding of up to the condition number of F + λI or G + λI
    assert int((torch.linalg.svdvals(method(deltas)) > 1e-9).sum()) == min(6 * rank, 48)


@both
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
def test_any_ridge_and_shape(method, expected, shape, ridge):
    deltas = sample(5, *shape)
    assert error(method(deltas, ridge), expected(deltas, ridge)) < 1e-9


@both
def test_equal_tasks_and_repeated_singular_values(method, expected):
    same = torch.eye(30, 20, dtype=torch.float64).repeat(3, 1, 1)
    for deltas in (same, sample(1, 30, 20).repeat(4, 1, 1), sample(3, 30, 20, power=0.0)):
        assert error(method(deltas), expected(deltas)) < 1e-9
        assert error(method(deltas.float()), expected(deltas)) < 1e-4


@both
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
def test_inputs_and_outputs_that_no_task_changes(method, expected, shape):
    deltas = sample(4, *shape)
    deltas[..., 3:12] = 0
    deltas[:, [0, 5]] = 0
    assert error(method(deltas), expected(deltas)) < 1e-9
    assert error(method(deltas.float()), expected(deltas)) < 1e-4


@both
def test_tasks_of_very_different_norms(method, expected):
    deltas = sample(4, 30, 20) * torch.tensor([1e-3, 1.0, 30.0, 1e3]).view(4, 1, 1)
    assert error(method(deltas), expected(deltas)) < 1e-9
    assert error(method(deltas.float()), expected(deltas)) < 1e-4


@both
def test_squares_that_float32_cannot_hold(method, expected):
    deltas = sample(3, 30, 20)
    for scale in (1e-30, 1e30):
        assert error(method((deltas * scale).float()).double() / scale, expected(deltas)) < 1e-4


@each
def test_a_task_without_change_takes_no_part(method):
    deltas = sample(3, 30, 20)
    padded = torch.cat([torch.zeros(1, 30, 20).double(), deltas, torch.zeros(2, 30, 20).double()])
    assert torch.equal(method(padded), method(deltas))
    assert not method(torch.zeros(3, 6, 4)).any()


@each
@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_the_ridge_must_be_positive(method, ridge):
    with pytest.raises(UserError, match="ridge="):
        method(sample(2, 6, 4), ridge)


@each
def test_a_ridge_that_rounding_swallows(method):
    with pytest.raises(UserError, match="give a larger one"):
        method(sample(2, 64, 48, rank=1).float(), 1e-12)
