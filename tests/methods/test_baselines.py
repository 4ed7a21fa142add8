"""The baselines against independent float64 computations on whole dictionaries, written from the papers' equations."""

import math

import pytest
import textbook
import torch
from models import close, matrix, zoo
from textbook import is_matrix, polar, svd, task_vectors, truncated

from tsv_exp import Method, UserError, apply, merge

SINGLE = 2**-23
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-4}
SPECTRAL = ["iso_c", "iso_cts", "tsv_m_eigen", "tsv_m_no_orthogonalization", "tsv_m_no_truncation"]


def on_matrices(taus, function):
    merged = textbook.weight_average(taus)
    for name, first in taus[0].items():
        if is_matrix(name, first):
            merged[name] = function([tau[name] for tau in taus])
    return merged


def iso_c(deltas):
    u, s, vh = truncated(sum(deltas), min(deltas[0].shape), SINGLE)
    return s.mean() * u @ vh if len(s) else torch.zeros_like(deltas[0])


def iso_cts(deltas, fraction=0.8):
    r = min(deltas[0].shape)
    specific = min(round((r - math.floor(fraction * r + 1e-9)) / len(deltas)), r // len(deltas))
    u, s, vh = truncated(sum(deltas), r - specific * len(deltas), SINGLE)
    parts = [beyond(u, delta, specific) for delta in deltas] + [(u, s, vh)]
    spectrum = torch.cat([part[1] for part in parts])
    if not len(spectrum):
        return torch.zeros_like(deltas[0])
    left, right = torch.cat([part[0] for part in parts], 1), torch.cat([part[2] for part in parts])
    return polar(left, SINGLE) @ (spectrum.mean() * torch.eye(len(spectrum)).double()) @ polar(right, SINGLE)


def beyond(common, delta, k):
    """The top k components of what a common basis leaves of delta, if that is more than rounding."""
    u, s, vh = truncated(delta - common @ common.T @ delta, k, SINGLE)
    kept = s > max(delta.shape) * SINGLE * svd(delta)[1][0]
    return u[:, kept], s[kept], vh[kept]


def low_rank_sum(deltas):
    total = torch.zeros_like(deltas[0])
    for delta in deltas:
        u, s, vh = truncated(delta, min(delta.shape) // len(deltas), SINGLE)
        total += u @ s.diag() @ vh
    return total


EXPECTED = {
    "iso_c": lambda taus: on_matrices(taus, iso_c),
    "iso_cts": lambda taus: on_matrices(taus, iso_cts),
    "tsv_m_eigen": lambda taus: textbook.tsv_m(taus, eps=SINGLE),
    "tsv_m_no_orthogonalization": lambda taus: on_matrices(taus, low_rank_sum),
    "tsv_m_no_truncation": lambda taus: textbook.tsv_m(taus, rank_fraction=1.0, eps=SINGLE),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [1, 2, 4])
@pytest.mark.parametrize("method", SPECTRAL)
def test_spectral_methods(method, tasks, dtype):
    base, finetuned = zoo(tasks, dtype)
    merged = merge(base, finetuned, method)
    assert not merged.per_task
    close(merged.vector(), EXPECTED[method](task_vectors(base, finetuned)), TOLERANCE[dtype])


@pytest.mark.parametrize("fraction", [0.0, 0.29, 0.5, 1.0])
def test_iso_cts_at_any_common_fraction(fraction):
    base, finetuned = zoo(3)
    expected = on_matrices(task_vectors(base, finetuned), lambda deltas: iso_cts(deltas, fraction))
    close(merge(base, finetuned, "iso_cts", common_fraction=fraction).vector(), expected, 1e-9)


def test_iso_cts_without_task_specific_part_is_iso_c():
    base, finetuned = zoo(3)
    expected = merge(base, finetuned, "iso_c").vector()
    close(merge(base, finetuned, "iso_cts", common_fraction=1.0).vector(), expected, 1e-9)


def model_of(deltas, dtype):
    return {"w": torch.zeros(deltas[0].shape, dtype=dtype)}, {f"t{i}": {"w": d.to(dtype)} for i, d in enumerate(deltas)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", SPECTRAL)
def test_null_directions_and_zero_deltas(method, dtype):
    g = torch.Generator().manual_seed(2)
    deltas = [matrix(48, 32, g, rank=r) for r in (4, 2, 5)] + [torch.zeros(48, 32)]
    base, finetuned = model_of(deltas, dtype)
    expected = EXPECTED[method](task_vectors(base, finetuned))
    close(merge(base, finetuned, method).vector(), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("method", [*SPECTRAL, "knots_ties"])
def test_equal_tasks_and_no_change_at_all_stay_finite(method):
    same = matrix(40, 32, torch.Generator().manual_seed(4))
    base, finetuned = model_of([same] * 4, torch.float32)
    merged = merge(base, finetuned, method).vector()["w"]
    assert merged.isfinite().all()
    assert float(torch.linalg.svdvals(merged)[0]) < 4.1
    base, finetuned = model_of([torch.zeros(6, 4)] * 3, torch.float32)
    assert not merge(base, finetuned, method).vector()["w"].any()


def test_iso_c_keeps_the_nuclear_norm():
    base, finetuned = model_of([matrix(48, 32, torch.Generator().manual_seed(5), rank=6)], torch.float64)
    before, after = (torch.linalg.svdvals(m["w"]) for m in (finetuned["t0"], merge(base, finetuned, "iso_c").vector()))
    assert float(after.sum()) == pytest.approx(float(before.sum()))
    assert after[:6].tolist() == pytest.approx([float(before.sum()) / 6] * 6)


def test_tsv_m_by_gram_matrices_is_tsv_m():
    base, finetuned = zoo(4, torch.float32)
    for fraction in (None, 0.5, 1.0):
        expected = merge(base, finetuned, "tsv_m", rank_fraction=fraction).vector()
        close(merge(base, finetuned, "tsv_m_eigen", rank_fraction=fraction).vector(), expected, 1e-4)


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
        {"name": "x", "_target_": "tsv_exp.methods.entrywise.dropped", "drop_rate": drop_rate, "seed": 3}
    )
    halves = merge(base, finetuned, per_task)
    taus = [{k: v.double() for k, v in halves.vector(task).items()} for task in finetuned]
    merged = merge(base, finetuned, "dare_ties", drop_rate=drop_rate, density=density, seed=3)
    close(merged.vector(), textbook.ties(taus, density), TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("method", "params", "key"),
    [
        ("dare", {"drop_rate": 1}, "drop_rate"),
        ("dare_ties", {"density": 0}, "density"),
        ("breadcrumbs", {"beta": 0.99, "gamma": 0.9}, "beta"),
        ("magnitude_mask", {"density": 2}, "density"),
        ("iso_cts", {"common_fraction": -0.1}, "common_fraction"),
        ("knots_ties", {"density": math.nan}, "density"),
        ("tsv_m_no_orthogonalization", {"rank_fraction": 0}, "rank_fraction"),
    ],
)
def test_parameters_outside_their_domain(method, params, key):
    base, finetuned = zoo(2)
    with pytest.raises(UserError, match=key):
        merge(base, finetuned, method, **params)
