"""Isotropic regression against an independent float64 computation, and what it must do at the edges."""

import torch
from regressions import error, sample
from textbook import svd

from tsv_exp.methods.regression.iso_reg import iso_reg


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
