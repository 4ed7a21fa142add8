"""What the regressions of this project share, against independent float64 computations and at the edges."""

import pytest
import regressions
import torch
from regressions import error, sample

from tsv_exp import UserError
from tsv_exp.methods.regression.iso_reg import iso_reg
from tsv_exp.methods.regression.white_reg import white_reg

METHODS = {iso_reg: regressions.iso_reg, white_reg: regressions.white_reg}
both = pytest.mark.parametrize(("method", "expected"), METHODS.items(), ids=["iso_reg", "white_reg"])
each = pytest.mark.parametrize("method", METHODS)


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
@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_the_ridge_must_be_positive(method, ridge):
    with pytest.raises(UserError, match="ridge="):
        method(sample(2, 6, 4), ridge)


@each
def test_a_ridge_that_rounding_swallows(method):
    with pytest.raises(UserError, match="give a larger one"):
        method(sample(2, 64, 48, rank=1).float(), 1e-12)
