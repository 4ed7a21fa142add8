"""KnOTS against a float64 computation."""

import pytest
import textbook
import torch
from models import close, matrix, model_of, zoo
from textbook import is_matrix, svd, task_vectors

from tsv_exp import merge

SINGLE = 2**-23


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-4}


def knots(taus, density):
    names = [name for name, delta in taus[0].items() if is_matrix(name, delta) and any(tau[name].any() for tau in taus)]
    bases = {}
    for name in names:
        u, s, _ = svd(torch.cat([tau[name] for tau in taus], 1), full_matrices=False)
        bases[name] = u[:, s > 1e-10 * s[0]]
    merged = textbook.ties([{name: bases[name].T @ tau[name] for name in names} for tau in taus], density)
    return textbook.weight_average(taus) | {name: bases[name] @ merged[name] for name in names}


@pytest.mark.parametrize("density", [0.2, 0.6, 1])
@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_knots_with_ties(tasks, density):
    base, finetuned = zoo(tasks)
    merged = merge(base, finetuned, "knots_ties", density=density)
    close(merged.vector(), knots(task_vectors(base, finetuned), density), 1e-9)


def test_knots_trims_low_rank_updates_by_their_own_entries():
    g = torch.Generator().manual_seed(6)
    base, finetuned = model_of([matrix(48, 32, g, rank=2) for _ in range(3)], torch.float64)
    close(merge(base, finetuned, "knots_ties").vector(), knots(task_vectors(base, finetuned), 0.2), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_knots_in_single_precision(dtype):
    base, finetuned = zoo(4, dtype)
    # entries within rounding of a threshold may be kept by one and trimmed by the other
    close(merge(base, finetuned, "knots_ties").vector(), knots(task_vectors(base, finetuned), 0.2), 2e-2)
