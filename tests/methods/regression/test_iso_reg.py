"""Isotropic regression against an independent float64 computation, and what it must do at the edges."""

import pytest
import regressions
import textbook
import torch
from models import close, zoo
from regressions import TOLERANCE, error, sample
from textbook import is_matrix, svd, task_vectors

from tsv_exp import merge
from tsv_exp.config import Engine
from tsv_exp.methods.regression.iso_reg import iso_reg


@pytest.mark.parametrize("svd_", ["auto", "exact"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [2, 4, 12])
def test_models(tasks, dtype, svd_):
    base, finetuned = zoo(tasks, dtype)
    taus = task_vectors(base, finetuned)
    wanted = textbook.weight_average(taus)
    for name, first in taus[0].items():
        if is_matrix(name, first):
            wanted[name] = regressions.iso_reg([tau[name] for tau in taus])
    merged = merge(base, finetuned, "iso_reg", engine=Engine(svd=svd_))
    assert not merged.per_task
    close(merged.vector(), wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank(rank):
    deltas = sample(6, 64, 48, rank=rank)
    wanted = regressions.iso_reg(deltas)
    assert error(iso_reg(deltas), wanted) < 1e-9
    assert error(iso_reg(deltas.float()), wanted) < 3e-4  # rounding of up to κ(F + λI) · eps
    assert int((torch.linalg.svdvals(iso_reg(deltas)) > 1e-9).sum()) == min(48, 6 * rank)


def test_one_task_keeps_its_directions():
    deltas = sample(1, 30, 20)
    u, s, vh = svd(deltas[0], full_matrices=False)
    spectrum = u.T @ iso_reg(deltas) @ vh.T
    diagonal = spectrum.diagonal()
    assert torch.allclose(spectrum, diagonal.diag(), atol=1e-12)
    assert bool((diagonal > 0).all())
    assert float(diagonal[0] / diagonal[-1]) < float(s[0] / s[-1])
    assert error(iso_reg(deltas, 1e-8), s.mean() * u @ vh) < 1e-5


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
