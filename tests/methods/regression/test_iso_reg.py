"""Isotropic regression against an independent float64 computation, and what it must do at the edges."""

import pytest
import textbook
import torch
from models import close, matrix, zoo
from textbook import is_matrix, svd, task_vectors
from torch.linalg import inv

from tsv_exp import UserError, merge
from tsv_exp.config import Engine
from tsv_exp.methods.regression.iso_reg import iso_reg

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-4}


def expected(deltas, ridge=0.1):
    """By inverses and singular value decompositions, in float64."""
    taus = [delta.double() for delta in deltas if delta.any()]
    if not taus:
        return torch.zeros_like(deltas[0]).double()
    m, n = taus[0].shape
    if m < n:
        return expected([tau.T for tau in taus], ridge).T
    weights = [1 / float(tau.square().sum()) for tau in taus]
    g = sum(w * tau.T @ tau for w, tau in zip(weights, taus, strict=True))
    f = sum(w * tau @ tau.T for w, tau in zip(weights, taus, strict=True))
    r = sum(w * (tau @ tau.T) @ tau for w, tau in zip(weights, taus, strict=True))
    u, s, _ = svd(r, full_matrices=False)
    p = u[:, s > 1e-9 * s[0]] @ u[:, s > 1e-9 * s[0]].T
    on_inputs = r @ inv(g + ridge * g.trace() / n * torch.eye(n, dtype=r.dtype))
    on_outputs = p @ inv(p @ f @ p + ridge * f.trace() / m * torch.eye(m, dtype=r.dtype)) @ r
    u, s, vh = svd((on_inputs + on_outputs) / 2, full_matrices=False)
    flat = s / (s.square() + ridge * s.square().mean()).sqrt()
    return u @ (flat * (flat @ s) / (flat @ flat)).diag() @ vh


def error(got, wanted):
    return float((got.double() - wanted).norm() / wanted.norm())


def sample(tasks, m, n, seed=0, **kwargs):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([matrix(m, n, g, **kwargs) for _ in range(tasks)])


@pytest.mark.parametrize("svd_", ["auto", "exact"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [2, 4, 12])
def test_models(tasks, dtype, svd_):
    base, finetuned = zoo(tasks, dtype)
    taus = task_vectors(base, finetuned)
    wanted = textbook.weight_average(taus)
    for name, first in taus[0].items():
        if is_matrix(name, first):
            wanted[name] = expected([tau[name] for tau in taus])
    merged = merge(base, finetuned, "iso_reg", engine=Engine(svd=svd_))
    assert not merged.per_task
    close(merged.vector(), wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
def test_any_ridge_and_shape(shape, ridge):
    deltas = sample(5, *shape)
    assert error(iso_reg(deltas, ridge), expected(deltas, ridge)) < 1e-9


@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank(rank):
    deltas = sample(6, 64, 48, rank=rank)
    wanted = expected(deltas)
    assert error(iso_reg(deltas), wanted) < 1e-9
    assert error(iso_reg(deltas.float()), wanted) < 3e-4  # rounding of up to κ(F + λI) · eps
    assert int((torch.linalg.svdvals(iso_reg(deltas)) > 1e-9).sum()) == min(48, 6 * rank)


def test_equal_tasks_and_repeated_singular_values():
    same = torch.eye(30, 20, dtype=torch.float64).repeat(3, 1, 1)
    for deltas in (same, sample(1, 30, 20).repeat(4, 1, 1), sample(3, 30, 20, power=0.0)):
        assert error(iso_reg(deltas), expected(deltas)) < 1e-9
        assert error(iso_reg(deltas.float()), expected(deltas)) < 1e-4


def test_tasks_of_very_different_norms():
    deltas = sample(4, 30, 20) * torch.tensor([1e-3, 1.0, 30.0, 1e3]).view(4, 1, 1)
    assert error(iso_reg(deltas), expected(deltas)) < 1e-9
    assert error(iso_reg(deltas.float()), expected(deltas)) < 1e-4


def test_squares_that_float32_cannot_hold():
    deltas = sample(3, 30, 20)
    for scale in (1e-30, 1e30):
        assert error(iso_reg((deltas * scale).float()).double() / scale, expected(deltas)) < 1e-4


def test_one_task_keeps_its_directions():
    deltas = sample(1, 30, 20)
    u, s, vh = svd(deltas[0], full_matrices=False)
    spectrum = u.T @ iso_reg(deltas) @ vh.T
    diagonal = spectrum.diagonal()
    assert torch.allclose(spectrum, diagonal.diag(), atol=1e-12)
    assert bool((diagonal > 0).all())
    assert float(diagonal[0] / diagonal[-1]) < float(s[0] / s[-1])
    assert error(iso_reg(deltas, 1e-8), s.mean() * u @ vh) < 1e-5


def test_a_task_without_change_takes_no_part():
    deltas = sample(3, 30, 20)
    padded = torch.cat([torch.zeros(1, 30, 20).double(), deltas, torch.zeros(2, 30, 20).double()])
    assert torch.equal(iso_reg(padded), iso_reg(deltas))
    assert not iso_reg(torch.zeros(3, 6, 4)).any()


def test_symmetries():
    deltas = sample(4, 30, 20)
    merged = iso_reg(deltas)
    assert error(iso_reg(deltas.mT), merged.mT) < 1e-12
    assert error(iso_reg(deltas[[2, 0, 3, 1]]), merged) < 1e-12
    assert error(iso_reg(-7 * deltas), -7 * merged) < 1e-12
    left, right = (torch.linalg.qr(sample(1, size, size)[0]).Q for size in (30, 20))
    assert error(iso_reg(left @ deltas @ right), left @ merged @ right) < 1e-12


def test_disjoint_tasks_all_remain():
    deltas = torch.zeros(3, 30, 21, dtype=torch.float64)
    for i, part in enumerate(sample(3, 10, 7)):
        deltas[i, 10 * i : 10 * (i + 1), 7 * i : 7 * (i + 1)] = part
    merged = iso_reg(deltas)
    assert float(merged[10:20, :7].abs().max()) < 1e-12
    alone = iso_reg(deltas[1:2])
    inner = (merged * alone).sum() / merged[10:20, 7:14].norm() / alone.norm()
    assert float(inner) > 0.95


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_the_ridge_must_be_positive(ridge):
    with pytest.raises(UserError, match="ridge="):
        iso_reg(sample(2, 6, 4), ridge)


def test_a_ridge_that_rounding_swallows():
    with pytest.raises(UserError, match="give a larger one"):
        iso_reg(sample(2, 64, 48, rank=1).float(), 1e-12)
