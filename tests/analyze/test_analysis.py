"""The analysis against the definitions, computed one pair and one layer at a time in float64."""

import math
from itertools import combinations

import pytest
import textbook
import torch
from models import matrix, zoo
from textbook import task_vectors

from tsv_exp import UserError, interference, merge
from tsv_exp.analyze.analysis import analyze, propose
from tsv_exp.config import Engine
from tsv_exp.decompositions.exact import ExactAlgebra

NAMES = ["tall.weight", "wide.weight", "square.weight"]


def layer_of(analysis, name):
    return next(layer for layer in analysis.layers if layer.name == name)


@pytest.mark.parametrize("rank_fraction", [None, 0.1, 1.0])
def test_interference_is_that_of_the_package(rank_fraction):
    base, finetuned = zoo(4)
    analysis = analyze(base, finetuned, rank_fraction)
    expected = interference(base, finetuned, rank_fraction)
    assert {layer.name: layer.interference for layer in analysis.layers} == pytest.approx(expected)
    assert analysis.interference == pytest.approx(sum(expected.values()))
    assert layer_of(analysis, "frozen.weight") not in analysis.changed


@pytest.mark.gpu
def test_an_analysis_on_a_gpu_is_that_of_the_cpu():
    base, finetuned = zoo(4)
    expected, found = analyze(base, finetuned), analyze(base, finetuned, device="cuda")
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.interference == pytest.approx(other.interference, rel=1e-9)
        for name in ("energy", "stable_rank", "left", "right"):
            torch.testing.assert_close(getattr(one, name).cpu(), getattr(other, name), atol=1e-9, rtol=1e-9)


def test_spectra_energy_and_stable_rank():
    base, finetuned = zoo(4)
    analysis, taus = analyze(base, finetuned), task_vectors(base, finetuned)
    for name in NAMES:
        layer = layer_of(analysis, name)
        for i, tau in enumerate(taus):
            s = torch.linalg.svdvals(tau[name])
            assert layer.spectra[i].tolist() == pytest.approx(s.tolist())
            assert float(layer.energy[i]) == pytest.approx(float((s[: layer.k] ** 2).sum() / (s**2).sum()))
            assert float(layer.stable_rank[i]) == pytest.approx(float(tau[name].norm() ** 2 / s[0] ** 2))
    assert layer_of(analysis, "frozen.weight").energy.tolist() == [0] * 4


def test_overlap_is_the_mean_squared_cosine_of_principal_angles():
    base, finetuned = zoo(3)
    layer, taus = layer_of(analyze(base, finetuned), "tall.weight"), task_vectors(base, finetuned)
    factors = [textbook.truncated(tau["tall.weight"], layer.k, 2e-16) for tau in taus]
    for (i, (u, _, vh)), (j, (w, _, xh)) in combinations(enumerate(factors), 2):
        assert float(layer.left[i, j]) == pytest.approx(float((torch.linalg.svdvals(u.T @ w) ** 2).mean()))
        assert float(layer.right[i, j]) == pytest.approx(float((torch.linalg.svdvals(vh @ xh.T) ** 2).mean()))
    assert layer.left.diagonal().tolist() == pytest.approx([1, 1, 1])


def test_equal_and_orthogonal_tasks():
    eye = torch.eye(8, dtype=torch.float64)
    first, second = eye[:, :4] @ eye[:4], eye[:, 4:] @ eye[4:]
    base = {"w": torch.zeros(8, 8, dtype=torch.float64)}
    analysis = analyze(base, {"a": {"w": first}, "b": {"w": first}, "c": {"w": second}}, 0.5)
    same = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]).double()
    torch.testing.assert_close(analysis.layers[0].left, same)
    torch.testing.assert_close(analysis.cosines, same)
    assert analysis.pairs[0, 2] == 0
    assert analysis.pairs[0, 1] > 0


def test_cosines_are_those_of_the_whole_task_vectors():
    base, finetuned = zoo(3)
    flat = [torch.cat([v.flatten() for v in tau.values()]) for tau in task_vectors(base, finetuned)]
    cosines = analyze(base, finetuned).cosines
    for i, j in combinations(range(3), 2):
        assert float(cosines[i, j]) == pytest.approx(float(torch.cosine_similarity(flat[i], flat[j], 0)))


def test_pairs_are_the_interference_of_the_two_alone():
    base, finetuned = zoo(4)
    analysis = analyze(base, finetuned, together=2)
    for i, j in combinations(range(4), 2):
        two = analyze(base, {task: finetuned[task] for task in (f"task{i}", f"task{j}")})
        assert float(analysis.pairs[i, j]) == pytest.approx(two.relative)
        assert float(analysis.pairs[j, i]) == pytest.approx(two.relative)


def test_the_best_two_tasks_are_those_of_least_interference():
    base, finetuned = zoo(5)
    proposals = propose(analyze(base, finetuned, together=2), 2)
    measured = {}
    for pair in combinations(finetuned, 2):
        measured[pair] = analyze(base, {task: finetuned[task] for task in pair}).relative
    assert [found.tasks for found in proposals] == sorted(measured, key=measured.get)
    assert [found.score for found in proposals] == pytest.approx(sorted(measured.values()))


def test_tasks_in_separate_subspaces_are_chosen():
    g = torch.Generator().manual_seed(0)
    shared = matrix(24, 24, g, rank=2)
    deltas = {"a": shared, "b": shared + 0.01 * matrix(24, 24, g), "c": matrix(24, 24, g, rank=2)}
    base = {"w": torch.zeros(24, 24, dtype=torch.float64)}
    analysis = analyze(base, {task: {"w": delta} for task, delta in deltas.items()}, 2 / 24)
    assert propose(analysis, 2)[-1].tasks == ("a", "b")


def test_float32_half_precision_and_unchanged_tasks():
    base, finetuned = zoo(3, torch.bfloat16)
    analysis = analyze(base, finetuned | {"still": base})
    assert math.isfinite(analysis.relative)
    assert analysis.pairs.isfinite().all()
    assert analysis.cosines[3].tolist() == [0, 0, 0, 0]
    nothing = analyze(base, {"still": base})
    assert (nothing.interference, nothing.relative) == (0, 0)


def test_choices_that_cannot_be():
    base, finetuned = zoo(3)
    with pytest.raises(UserError, match=r"select=4: .* as there are tasks: 3"):
        propose(analyze(base, finetuned), 4)
    with pytest.raises(UserError, match="no matrix"):
        analyze({"b": torch.zeros(3)}, {"a": {"b": torch.ones(3)}})


def test_factors_of_a_merge_are_not_computed_again(monkeypatch, tmp_path):
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    base, finetuned = zoo(3)
    engine = Engine(cache="disk", svd="exact")
    merge(base, finetuned, "tsv_m", engine=engine)
    expected = analyze(base, finetuned)

    def refuse(*_):
        raise AssertionError("decomposed again")

    monkeypatch.setattr(ExactAlgebra, "truncated_svd", refuse)
    assert analyze(base, finetuned, engine=engine).interference == pytest.approx(expected.interference)
