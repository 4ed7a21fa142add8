"""DARE and Model Breadcrumbs against the papers' formulas."""

import math

import pytest
import textbook
import torch
from models import close, model_of, zoo
from textbook import task_vectors

from tsv_exp import Method, merge

SINGLE = 2**-23


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-4}


def breadcrumbs(taus, beta, gamma):
    merged = {}
    for name in taus[0]:
        merged[name] = torch.zeros_like(taus[0][name])
        for tau in taus:
            entries = tau[name].flatten().tolist()
            ranked = sorted(range(len(entries)), key=lambda j: abs(entries[j]))
            d = len(entries)
            for j in ranked[math.floor(beta * d + 1e-9) : d - math.floor((1 - gamma) * d + 1e-9)]:
                merged[name].view(-1)[j] += entries[j]
    return merged


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("beta", "gamma"), [(0.85, 0.994), (0.5, 0.9), (0.0, 1.0)])
def test_breadcrumbs(beta, gamma, dtype):
    base, finetuned = zoo(3, dtype)
    merged = merge(base, finetuned, "breadcrumbs", beta=beta, gamma=gamma)
    close(merged.vector(), breadcrumbs(task_vectors(base, finetuned), beta, gamma), TOLERANCE[dtype])


def test_dare_drops_and_rescales():
    g = torch.Generator().manual_seed(7)
    taus = 1 + torch.rand(3, 200, 100, generator=g, dtype=torch.float64)
    base, finetuned = model_of(list(taus), torch.float64)
    parts = [merge(base, {task: model}, "dare", drop_rate=0.75).vector()["w"] for task, model in finetuned.items()]
    for part, tau in zip(parts, taus, strict=True):
        assert torch.equal(part[part != 0], (tau * 4)[part != 0])
        assert float((part != 0).double().mean()) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 20000))
    whole = merge(base, finetuned, "dare", drop_rate=0.75).vector()["w"]
    # an entry is the sum over the tasks that kept it: independently, so (1/4)^3 of them kept all three
    choices = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    sums = 4 * torch.einsum("ct,tmn->cmn", choices, taus)
    nearest = (sums - whole).abs().argmin(0)
    assert float((sums - whole).abs().min(0).values.max()) < 1e-12
    counts = torch.bincount(nearest.flatten(), minlength=8) / nearest.numel()
    for index, count in enumerate(counts.tolist()):
        kept = bin(index).count("1")
        assert count == pytest.approx(0.25**kept * 0.75 ** (3 - kept), abs=0.015)


def test_dare_is_seeded_and_does_not_depend_on_the_place_of_a_layer():
    base, finetuned = zoo(3, torch.float32)
    first = merge(base, finetuned, "dare").vector()
    close(merge(base, finetuned, "dare").vector(), first, 0)
    assert not torch.equal(merge(base, finetuned, "dare", seed=1).vector()["tall.weight"], first["tall.weight"])
    turned = dict(reversed(base.items()))
    assert torch.equal(merge(turned, finetuned, "dare").vector()["tall.weight"], first["tall.weight"])


def test_dare_without_dropping():
    base, finetuned = zoo(3, torch.bfloat16)
    for method, plain in (("dare", "task_arithmetic"), ("dare_ties", "ties")):
        close(merge(base, finetuned, method, drop_rate=0).vector(), merge(base, finetuned, plain).vector(), 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("drop_rate", "density"), [(0.9, 0.2), (0.3, 0.2), (0.3, 0.9)])
def test_dare_with_ties_is_ties_of_the_dropped_task_vectors(drop_rate, density, dtype):
    base, finetuned = zoo(3, dtype)
    per_task = Method.from_config(
        {"name": "x", "_target_": "tsv_exp.methods.steps.before.drop", "drop_rate": drop_rate, "seed": 3}
    )
    halves = merge(base, finetuned, per_task)
    taus = [{k: v.double() for k, v in halves.vector(task).items()} for task in finetuned]
    merged = merge(base, finetuned, "dare_ties", drop_rate=drop_rate, density=density, seed=3)
    close(merged.vector(), textbook.ties(taus, density), TOLERANCE[dtype])
