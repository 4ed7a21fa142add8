"""Whitened regression against an independent float64 computation, and what it must do at the edges."""

import pytest
import regressions
import torch
from regressions import error, sample
from textbook import svd

from tsv_exp.methods.regression.white_reg import white_reg


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
def test_the_sides_change_places_where_all_tasks_have_low_rank(shape):
    low, full = sample(4, *shape, rank=12), sample(1, *shape)
    swapped = regressions.whitened([tau.mT for tau in low], 0.1, 0.25).mT / 4**0.5
    assert error(white_reg(low), swapped) < 1e-9
    for deltas in (torch.cat([low, full]), sample(4, *shape, rank=13)):
        assert error(white_reg(deltas), regressions.whitened(list(deltas), 0.1, 0.5)) < 1e-9


def test_one_task_keeps_its_directions_and_has_a_spectrum_that_is_nearly_flat():
    deltas = sample(1, 30, 20)
    u, s, vh = svd(deltas[0], full_matrices=False)
    share = (s / s.norm()).square()
    white = s / (share + 0.1 / 30).sqrt()
    assert error(white_reg(deltas), u @ (white * s.norm() / white.norm()).diag() @ vh) < 1e-12


def test_low_rank_tasks_that_do_not_overlap_merge_to_about_the_norm_of_one_of_them():
    deltas = sample(6, 96, 80, rank=2)
    assert 0.8 < float(white_reg(deltas).norm() / deltas.flatten(1).norm(dim=1).mean()) < 1.2


def test_disjoint_tasks_do_not_disturb_each_other():
    deltas = torch.zeros(3, 30, 21, dtype=torch.float64)
    for i, part in enumerate(sample(3, 10, 7)):
        deltas[i, 10 * i : 10 * (i + 1), 7 * i : 7 * (i + 1)] = part
    merged = white_reg(deltas)
    assert float(merged[10:20, :7].abs().max()) < 1e-12
    inner = (merged * deltas[1]).sum() / merged[10:20, 7:14].norm() / deltas[1].norm()
    assert float(inner) > 0.8


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_symmetries(shape):
    deltas = sample(4, *shape)
    merged = white_reg(deltas)
    assert error(white_reg(deltas[[2, 0, 3, 1]]), merged) < 1e-12
    assert error(white_reg(-7 * deltas), -7 * merged) < 1e-12
    left, right = (torch.linalg.qr(sample(1, size, size)[0]).Q for size in shape)
    assert error(white_reg(left @ deltas @ right), left @ merged @ right) < 1e-12
