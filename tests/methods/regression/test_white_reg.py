"""Whitened regression against an independent float64 computation, and what it must do at the edges."""

import pytest
import textbook
import torch
from models import close, matrix, zoo
from textbook import is_matrix, svd, task_vectors
from torch.linalg import inv

from tsv_exp import UserError, merge
from tsv_exp.methods.regression.white_reg import white_reg

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-4}


def expected(deltas, ridge=0.1):
    """By inverses, projections and singular value decompositions, in float64."""
    taus = [delta.double() for delta in deltas if delta.any()]
    if not taus:
        return torch.zeros_like(deltas[0]).double()
    m, n = taus[0].shape
    on_inputs, on_outputs = (ridge * len(taus) / size * torch.eye(size).double() for size in (n, m))
    weights = [1 / float(tau.square().sum()) for tau in taus]
    g = sum(w * tau.T @ tau for w, tau in zip(weights, taus, strict=True))
    f = sum(w * tau @ tau.T for w, tau in zip(weights, taus, strict=True))
    r = sum(w * tau @ tau.T @ tau + tau @ on_inputs for w, tau in zip(weights, taus, strict=True))
    k = r @ inv(g + on_inputs)
    u, s, _ = svd(k, full_matrices=False)
    p = u[:, s > 1e-9 * s[0]] @ u[:, s > 1e-9 * s[0]].T
    u, s, _ = svd(p @ f @ p + on_outputs)
    white = u @ (s.rsqrt()[:, None] * u.T) @ k
    return white * k.norm() / white.norm()


def error(got, wanted):
    return float((got.double() - wanted).norm() / wanted.norm())


def sample(tasks, m, n, seed=0, **kwargs):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([matrix(m, n, g, **kwargs) for _ in range(tasks)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [2, 4, 12])
def test_models(tasks, dtype):
    base, finetuned = zoo(tasks, dtype)
    taus = task_vectors(base, finetuned)
    wanted = textbook.weight_average(taus)
    for name, first in taus[0].items():
        if is_matrix(name, first):
            wanted[name] = expected([tau[name] for tau in taus])
    merged = merge(base, finetuned, "white_reg")
    assert not merged.per_task
    close(merged.vector(), wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
def test_any_ridge_and_shape(shape, ridge):
    deltas = sample(5, *shape)
    assert error(white_reg(deltas, ridge), expected(deltas, ridge)) < 1e-9


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank(rank, shape):
    deltas = sample(6, *shape, rank=rank)
    wanted = expected(deltas)
    assert error(white_reg(deltas), wanted) < 1e-9
    assert error(white_reg(deltas.float()), wanted) < 3e-4  # rounding of up to κ(F + λI) · eps
    assert int((torch.linalg.svdvals(white_reg(deltas)) > 1e-9).sum()) == 6 * rank


def test_equal_tasks_and_repeated_singular_values():
    same = torch.eye(30, 20, dtype=torch.float64).repeat(3, 1, 1)
    for deltas in (same, sample(1, 30, 20).repeat(4, 1, 1), sample(3, 30, 20, power=0.0)):
        assert error(white_reg(deltas), expected(deltas)) < 1e-9
        assert error(white_reg(deltas.float()), expected(deltas)) < 1e-4


def test_tasks_of_very_different_norms():
    deltas = sample(4, 30, 20) * torch.tensor([1e-3, 1.0, 30.0, 1e3]).view(4, 1, 1)
    assert error(white_reg(deltas), expected(deltas)) < 1e-9
    assert error(white_reg(deltas.float()), expected(deltas)) < 1e-4


def test_squares_that_float32_cannot_hold():
    deltas = sample(3, 30, 20)
    for scale in (1e-30, 1e30):
        assert error(white_reg((deltas * scale).float()).double() / scale, expected(deltas)) < 1e-4


def test_one_task_keeps_its_directions_and_has_a_spectrum_that_is_nearly_flat():
    deltas = sample(1, 30, 20)
    u, s, vh = svd(deltas[0], full_matrices=False)
    share = (s / s.norm()).square()
    white = s / (share + 0.1 / 30).sqrt()
    assert error(white_reg(deltas), u @ (white * s.norm() / white.norm()).diag() @ vh) < 1e-12


def test_disjoint_tasks_do_not_disturb_each_other():
    deltas = torch.zeros(3, 30, 21, dtype=torch.float64)
    for i, part in enumerate(sample(3, 10, 7)):
        deltas[i, 10 * i : 10 * (i + 1), 7 * i : 7 * (i + 1)] = part
    merged = white_reg(deltas)
    assert float(merged[10:20, :7].abs().max()) < 1e-12
    inner = (merged * deltas[1]).sum() / merged[10:20, 7:14].norm() / deltas[1].norm()
    assert float(inner) > 0.8


def test_a_task_without_change_takes_no_part():
    deltas = sample(3, 30, 20)
    padded = torch.cat([torch.zeros(1, 30, 20).double(), deltas, torch.zeros(2, 30, 20).double()])
    assert torch.equal(white_reg(padded), white_reg(deltas))
    assert not white_reg(torch.zeros(3, 6, 4)).any()


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_symmetries(shape):
    deltas = sample(4, *shape)
    merged = white_reg(deltas)
    assert error(white_reg(deltas[[2, 0, 3, 1]]), merged) < 1e-12
    assert error(white_reg(-7 * deltas), -7 * merged) < 1e-12
    left, right = (torch.linalg.qr(sample(1, size, size)[0]).Q for size in shape)
    assert error(white_reg(left @ deltas @ right), left @ merged @ right) < 1e-12


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_the_ridge_must_be_positive(ridge):
    with pytest.raises(UserError, match="ridge="):
        white_reg(sample(2, 6, 4), ridge)


def test_a_ridge_that_rounding_swallows():
    with pytest.raises(UserError, match="give a larger one"):
        white_reg(sample(2, 64, 48, rank=1).float(), 1e-12)
