"""The baselines against independent float64 computations on whole dictionaries, written from the papers' equations."""

import math

import pytest
import textbook
import torch
from models import close, matrix, model_of, zoo
from textbook import is_matrix, polar, svd, task_vectors, truncated

from tsv_exp import merge

SINGLE = 2**-23
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-4}
SPECTRAL = ["iso_c", "iso_cts", "tsv_m_eigen", "tsv_m_no_orthogonalization", "tsv_m_no_truncation", "cart"]


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


def cart(deltas, fraction=0.12, scale=2.0):
    mean = sum(deltas) / len(deltas)
    merged = mean.clone()
    for delta in deltas:
        u, s, vh = truncated(delta - mean, max(1, math.floor(fraction * min(mean.shape))), 2**-52)
        merged += scale * u @ s.diag() @ vh
    return merged


EXPECTED = {
    "cart": lambda taus: on_matrices(taus, cart),
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


def test_cart_of_all_components_is_the_mean():
    base, finetuned = zoo(3)
    expected = merge(base, finetuned, "weight_average").vector()
    close(merge(base, finetuned, "cart", rank_fraction=1.0, lambda_=1.7).vector(), expected, 1e-9)


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
