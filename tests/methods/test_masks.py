"""Magnitude masks and EMR against the papers' formulas."""

import math

import pytest
import textbook
import torch
from models import close, zoo
from textbook import task_vectors

from tsv_exp import apply, merge

SINGLE = 2**-23


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-4}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [1, 4])
def test_magnitude_masks(tasks, dtype):
    base, finetuned = zoo(tasks, dtype)
    taus = task_vectors(base, finetuned)
    merged = merge(base, finetuned, "magnitude_mask", density=0.1)
    assert merged.per_task
    total = textbook.task_arithmetic(taus)
    for task, tau in zip(finetuned, taus, strict=True):
        flat = torch.cat([v.flatten() for v in tau.values()]).abs()
        cut = flat.sort().values[len(flat) - math.floor(0.1 * len(flat)) - 1]
        close(merged.vector(task), {k: total[k] * (tau[k].abs() >= cut) for k in tau}, TOLERANCE[dtype])


def emr(taus):
    total = textbook.task_arithmetic(taus)
    elected = {}
    for name in total:
        agreeing = [torch.where(tau[name].sign() == total[name].sign(), tau[name].abs(), 0) for tau in taus]
        elected[name] = total[name].sign() * torch.stack(agreeing).max(0).values
    models = []
    for tau in taus:
        kept = {name: torch.where(tau[name] * elected[name] > 0, elected[name], 0) for name in tau}
        own, left = (sum(float(v.abs().sum()) for v in vector.values()) for vector in (tau, kept))
        models.append({name: v * (own / left if left else 0) for name, v in kept.items()})
    return models


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_emr(tasks, dtype):
    base, finetuned = zoo(tasks, dtype)
    merged = merge(base, finetuned, "emr")
    for task, expected in zip(finetuned, emr(task_vectors(base, finetuned)), strict=True):
        close(merged.vector(task), expected, TOLERANCE[dtype])


def test_emr_of_one_task_is_that_task_and_of_an_unchanged_one_is_the_base():
    base, finetuned = zoo(1, torch.float32)
    torch.testing.assert_close(apply(base, merge(base, finetuned, "emr"), task="task0"), finetuned["task0"])
    still = finetuned | {"still": base}
    assert not any(v.any() for v in merge(base, still, "emr").vector("still").values())


def test_emr_stores_one_vector_and_a_bit_per_entry_and_task():
    base, finetuned = zoo(4)
    merged, masked = merge(base, finetuned, "emr"), merge(base, finetuned, "tall_mask")
    assert merged.stored_bytes_without_base == masked.stored_bytes_without_base
