"""Races against the whole grid on predictions with a known course over the values."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from linear import CPU, TASKS, Linear
from numpy.typing import NDArray
from scipy.stats import norm

from tsv_exp import merge
from tsv_exp.errors import UserError
from tsv_exp.evaluation.alpha import Candidate, Examples, Grid, Point, protocol
from tsv_exp.evaluation.alpha.race import Auto, Race, interleaved, race
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.methods.specification.scaling import Alpha

VALUES, CLASSES = 30, 5
Predictions = NDArray[np.int64]


def smooth(counts: list[int], peak: int, seed: int) -> tuple[list[Predictions], list[Predictions]]:
    """Labels (n,) and predictions (values, n) by task: right between two values around the peak, wrong outside."""
    rng = np.random.default_rng(seed)
    labels, predictions = [], []
    for count in counts:
        label = rng.integers(CLASSES, size=count)
        below, above = (label + 1) % CLASSES, (label + 2) % CLASSES
        start, end = peak - rng.gamma(2.0, 3.0, count), peak + rng.gamma(2.0, 5.0, count)
        value = np.arange(VALUES)[:, None]
        predictions.append(np.where(value < start, below, np.where(value > end, above, label)))
        labels.append(label)
    return labels, predictions


def raced(labels: list[Predictions], predictions: list[Predictions], error: float = 0.05, passes: float = 3.0):
    """A race of these predictions, and the rows that it asked for, as (value, number)."""
    tasks, rows = interleaved([len(label) for label in labels])
    asked: list[tuple[int, int]] = []

    def predict(value: int, wanted: NDArray[np.int64]) -> Predictions:
        asked.append((value, len(wanted)))
        return np.array([predictions[t][value, r] for t, r in zip(tasks[wanted], rows[wanted], strict=True)])

    flat = np.array([labels[t][r] for t, r in zip(tasks, rows, strict=True)])
    weights = np.ones(len(labels)) / len(labels)
    return race(len(predictions[0]), tasks, flat, weights, predict, error, passes), asked


def scores(labels: list[Predictions], predictions: list[Predictions]) -> Predictions:
    return np.mean([(found == label).mean(1) for label, found in zip(labels, predictions, strict=True)], axis=0)


@pytest.mark.parametrize("peak", [2, 9, 15, 27])
def test_without_a_limit_a_race_finds_the_grids_best_and_measures_it_on_all_examples(peak: int) -> None:
    labels, predictions = smooth([300, 500, 200], peak, peak)
    found, asked = raced(labels, predictions, error=1e-3, passes=30)
    whole = scores(labels, predictions)
    assert found.chosen == whole.argmax()
    assert found.examples[found.chosen] == 1000
    assert found.accuracy[found.chosen].mean() == pytest.approx(whole.max())
    assert found.asked == sum(number for _, number in asked) < 5 * 1000  # of 30 * 1000
    assert found.examples.min() < 1000  # values far from the peak were dropped


@pytest.mark.parametrize("passes", [0.5, 1.0, 3.0])
def test_a_race_stays_below_its_limit(passes: float) -> None:
    for seed in range(5):
        labels, predictions = smooth([800] * 4, 10, seed)
        found, asked = raced(labels, predictions, passes=passes)
        assert sum(number for _, number in asked) == found.asked <= passes * 3200


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_narrows_the_values_not_the_examples(seed: int) -> None:
    rng = np.random.default_rng(seed)  # all values are equal, and neighbours differ on 4 % of the examples
    predictions = (rng.random((20, 1600)) < np.r_[0.5, [0.04] * 19][:, None]).cumsum(0) % 2
    found, _ = raced([np.zeros(1600, np.int64)], [predictions])
    assert found.asked <= 3 * 1600
    assert found.examples[found.chosen] == 1600
    assert 1 < (found.examples == 1600).sum() < 20


def test_equal_values_are_dropped_no_more_often_than_stated() -> None:
    rng, error, races = np.random.default_rng(0), 0.2, 400
    dropped = 0
    for _ in range(races):
        label = np.zeros(128, np.int64)
        found, _ = raced([label], [rng.integers(0, 2, (2, 128))], error=error, passes=10)
        dropped += found.examples.min() < 128
    assert 0 < dropped / races < 2 * error  # either of two could be


@pytest.mark.parametrize(("wins", "dropped"), [(9, False), (10, True)])
def test_a_value_is_dropped_where_mcnemars_test_says_so(wins: int, dropped: bool) -> None:
    assert bool(wins - 1 > norm.ppf(1 - 0.05 / 14) * wins**0.5) is dropped  # the leader wins all pairs that differ
    label = np.zeros(64, np.int64)
    worse = label.copy()
    order = interleaved([64])[1]
    worse[order[:wins]] = 1
    found, _ = raced([label], [np.stack([label, worse])], passes=10)
    assert found.chosen == 0
    assert bool(found.examples.max() < 64) is dropped


def test_the_smallest_of_equals_wins() -> None:
    label = np.zeros(64, np.int64)
    found, _ = raced([label], [np.stack([label + 1, label, label, label + 2])], passes=10)
    assert found.chosen == 1


def test_beginnings_of_the_order_hold_all_tasks() -> None:
    counts = [100, 400, 37]
    tasks, rows = interleaved(counts)
    assert sorted(zip(tasks, rows, strict=True)) == [(t, r) for t, count in enumerate(counts) for r in range(count)]
    for end in (3, 50, 200, 500):
        found = np.bincount(tasks[:end], minlength=3)
        assert all(found >= np.minimum(counts, found.max() - 1)), "as many of every task, as long as it has some"


@pytest.mark.parametrize("sizes", [(40, 4000), (4000, 40), (10, 3000, 3000)])
def test_a_small_task_counts_as_much_as_a_large_one(sizes: tuple[int, ...]) -> None:
    losses = []
    for seed in range(20):
        parts = [smooth([count], 20 if count > 40 else 5, seed) for count in sizes]
        labels, predictions = [part[0][0] for part in parts], [part[1][0] for part in parts]
        found, _ = raced(labels, predictions)
        assert found.asked <= 3 * sum(sizes)
        whole = scores(labels, predictions)
        losses.append(whole.max() - whole[found.chosen])
    assert np.mean(losses) < 0.01
    assert np.median(losses) == 0


@pytest.mark.parametrize("tasks", [3, 7, 14, 20])
def test_equal_accuracies_are_ties(tasks: int) -> None:
    labels = [np.zeros(50 + t, np.int64) for t in range(tasks)]
    same = [np.random.default_rng(t).integers(0, 2, len(label)) for t, label in enumerate(labels)]
    found, _ = raced(labels, [np.tile(one, (29, 1)) for one in same], passes=30)
    assert found.chosen == 0


def candidate(score: Callable[[float], Point], examples: Examples | None) -> Candidate:
    return Candidate(score, lambda: pytest.fail("scaled"), lambda: examples)


def test_the_points_of_a_race_say_on_how_many_examples_they_were_measured() -> None:
    labels, predictions = smooth([300, 400], 12, 0)
    named = dict(zip("ab", labels, strict=True))
    course = dict(zip("ab", predictions, strict=True))
    finetuned = {"a": 0.9, "b": 0.5}
    examples = Examples(named, finetuned, lambda alpha, task, rows: course[task][round(alpha * 10) - 1, rows])
    choice = Race(3.0, 30).choose(candidate(lambda _: pytest.fail("scored"), examples))
    whole = [
        Point.of(0.1 * (i + 1), {task: (course[task][i] == named[task]).mean() for task in "ab"}, finetuned)
        for i in range(30)
    ]
    best = max(point.mean_normalized for point in whole)
    assert best - whole[round(choice.alpha * 10) - 1].mean_normalized <= 0.01
    assert choice.passes is not None
    assert 0 < choice.passes <= 3
    assert [round(point.alpha, 6) for point in choice.tried] == [round(0.1 * i, 6) for i in range(1, 31)]
    assert all(0 < point.plain()["examples"] <= 700 for point in choice.tried)


@pytest.mark.parametrize(("counts", "policy"), [([900, 1101], Race), ([900, 1100], Grid), (None, Grid)])
def test_auto_races_where_there_are_many_examples(counts: list[int] | None, policy: type) -> None:
    labels, predictions = smooth(counts or [50, 60], 12, 0)
    named, course = dict(zip("ab", labels, strict=True)), dict(zip("ab", predictions, strict=True))
    finetuned = {"a": 1.0, "b": 1.0}

    def score(alpha: float) -> Point:
        return Point.of(
            alpha, {task: (course[task][round(alpha * 10) - 1] == named[task]).mean() for task in "ab"}, finetuned
        )

    examples = Examples(named, finetuned, lambda alpha, task, rows: course[task][round(alpha * 10) - 1, rows])
    made = candidate(score, examples if counts else None)
    choice = Auto(3.0, 30, error=0.01).choose(made)
    assert type(choice.policy) is policy
    expected = Race(3.0, 30, error=0.01) if policy is Race else Grid(3.0, 30)
    assert replace(choice, policy=None) == expected.choose(made)
    assert protocol(choice.policy, Alpha(), choice.alpha)["policy"] == policy.__name__.lower()


def test_without_accuracies_of_single_examples_the_grid_is_scored() -> None:
    def score(alpha: float) -> Point:
        return Point.of(alpha, {"a": 1 - abs(alpha - 2)}, {"a": 1.0})

    assert Race(3.0, 3).choose(candidate(score, None)) == Grid(3.0, 3).choose(candidate(score, None))
    assert Race(0.0, 1).choose(Candidate(lambda _: pytest.fail("scored"), lambda: 1.0)).alpha == 0.0


@pytest.mark.parametrize(("key", "value"), [("error", 0.0), ("error", 1.0), ("passes", 0.0), ("stop", -1.0)])
def test_parameters_outside_their_domain(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"alpha\.{key}"):
        Race(**{"stop": 3.0, "steps": 30, key: value})


def test_predictions_of_some_examples_are_those_of_the_applied_weights(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    model = Linear()
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=7)
    merged = merge(model.base(), model.finetuned(TASKS), "task_arithmetic")
    rows = np.random.default_rng(0).permutation(len(model.labels))[:20]
    for task in evaluator.tasks:
        found = evaluator.predictions(merged, 0.7, task, task, "validation", torch.from_numpy(rows)).numpy()
        right = evaluator.correct(merged, 0.7, task, "validation")
        assert right is not None
        assert ((found == model.labels.numpy()[rows]) == right[rows]).all()
        monkeypatch.setattr(evaluator, "_forward", lambda *_: pytest.fail("computed twice"))
        again = evaluator.predictions(merged, 0.7, task, task, "validation", torch.from_numpy(rows)).numpy()
        assert (again == found).all()
        monkeypatch.undo()
        monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))


def test_examples_are_read_in_the_order_of_the_split(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    model, read = Linear(), []
    monkeypatch.setattr(model, "prepare", lambda inputs, device: read.append(inputs) or inputs.float() / 255)
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=7)
    merged = merge(model.base(), model.finetuned(TASKS), "task_arithmetic")
    rows = np.random.default_rng(0).permutation(len(model.labels))[:20]
    evaluator.predictions(merged, 0.7, "a", "a", "validation", torch.from_numpy(rows))
    assert torch.equal(torch.cat(read), model.images[np.sort(rows)]), "texts of similar length need little padding"


def test_examples_count_where_every_metric_is_a_mean_over_them() -> None:
    assert Evaluator(Linear(), TASKS, CPU, "float32").counts_examples
    assert not Evaluator(Linear(), [TASKS[0], replace(TASKS[1], metric="f1")], CPU, "float32").counts_examples
