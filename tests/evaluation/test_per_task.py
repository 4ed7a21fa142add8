"""The value of λ that each task chooses, against a direct computation, with and without inferred predictions."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from linear import CPU, TASKS, Linear
from numpy.typing import NDArray
from torch import Tensor

from tsv_exp import merge
from tsv_exp.evaluation.alpha import Fixed, Grid, Policy
from tsv_exp.evaluation.alpha.race import Auto, Race
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.evaluation.per_task import choose_per_task
from tsv_exp.methods.specification.method import Method

COUNTS = {"a": 300, "b": 90}
METHOD = Method.load("tall_mask")


@dataclass
class Course:
    """Stands for an evaluator and its merges: λ is right for an example between two values, wrong outside."""

    tasks: tuple[str, ...] = tuple(COUNTS)
    counts_examples: bool = True
    passes: list[tuple[float, str, int]] = field(default_factory=list)
    merges: list[float] = field(default_factory=list)

    def merged(self, method: Method) -> float:
        self.merges.append(float(method.params["lambda_"]))
        return self.merges[-1]

    def counts(self, split: str) -> dict[str, int]:
        return COUNTS

    def labels(self, task: str, split: str) -> Tensor:
        return torch.zeros(COUNTS[task], dtype=torch.int64)

    def _classes(self, value: float, task: str) -> NDArray[np.int64]:
        rng = np.random.default_rng(len(task) + COUNTS[task])
        peak = {"a": 0.3, "b": 0.5}[task]
        start, end = peak - rng.gamma(2.0, 0.05, COUNTS[task]), peak + rng.gamma(2.0, 0.05, COUNTS[task])
        found: NDArray[np.int64] = np.where(value < start, 1, np.where(value > end, 2, 0))
        return found

    def predictions(self, merged: float, alpha: float, owner: str, task: str, split: str, rows: Tensor) -> Tensor:
        assert (alpha, owner, split) == (1.0, task, "validation")
        self.passes.append((merged, task, len(rows)))
        return torch.from_numpy(self._classes(merged, task)[rows.numpy()])

    def accuracies(self, merged: float, alpha: float, split: str) -> dict[str, float]:
        assert (alpha, split) == (1.0, "validation")
        self.passes += [(merged, task, COUNTS[task]) for task in self.tasks]
        return {task: (self._classes(merged, task) == 0).mean() for task in self.tasks}


@pytest.mark.parametrize("policy", [Race(3.0, 30), Grid(3.0, 30), Fixed(1.0)])
def test_every_task_chooses_its_best_value(policy: Policy) -> None:
    course = Course()
    method, chosen, passes = choose_per_task(METHOD, course, course.merged, policy)  # type: ignore[arg-type]
    assert passes * sum(COUNTS.values()) == pytest.approx(sum(count for *_, count in course.passes))
    assert METHOD.tune is not None
    scores = [[(course._classes(value, task) == 0).mean() for value in METHOD.tune.values] for task in COUNTS]
    best = [METHOD.tune.values[int(np.argmax(row))] for row in scores]
    assert list(chosen["lambda"].values()) == method.params["lambda_"] == best == [0.3, 0.5]
    assert sorted(course.merges) == list(METHOD.tune.values)  # each is merged once


def test_a_race_computes_the_outermost_values_and_what_differs() -> None:
    course = Course()
    choose_per_task(METHOD, course, course.merged, Race(3.0, 30))  # type: ignore[arg-type]
    assert course.merges == [0.2, 0.6, 0.4, 0.3, 0.5]
    assert course.passes[:4] == [(0.2, "a", 300), (0.2, "b", 90), (0.6, "a", 300), (0.6, "b", 90)]
    differ = [(course._classes(0.2, task) != course._classes(0.6, task)).sum() for task in COUNTS]
    assert course.passes[4:6] == [(0.4, "a", differ[0]), (0.4, "b", differ[1])]


@pytest.mark.parametrize(("average", "races"), [(1000, False), (1001, True)])
def test_auto_races_as_it_does_for_alpha(average: int, races: bool, monkeypatch) -> None:
    monkeypatch.setitem(COUNTS, "a", 2 * average - COUNTS["b"])
    course = Course()
    choose_per_task(METHOD, course, course.merged, Auto(3.0, 30))  # type: ignore[arg-type]
    assert (course.merges[1] == 0.6) is races


def test_metrics_that_are_no_means_are_computed_for_every_value() -> None:
    course = Course(counts_examples=False)
    choose_per_task(METHOD, course, course.merged, Race(3.0, 30))  # type: ignore[arg-type]
    assert course.merges == [0.2, 0.3, 0.4, 0.5, 0.6]


def test_a_method_without_such_a_parameter_stays_as_it_is() -> None:
    method = Method.load("tsv_m")
    course = Course()
    assert choose_per_task(method, course, course.merged, Race(3.0, 30)) == (method, {}, 0)  # type: ignore[arg-type]


def test_another_method_with_the_same_masks_needs_no_predictions(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    model = Linear()
    base, finetuned = model.base(), model.finetuned(TASKS)
    choices = []
    for name in ("tall_mask", "consensus_ta"):
        evaluator = Evaluator(model, TASKS, CPU, "float32")
        if choices:
            monkeypatch.setattr(evaluator, "_forward", lambda *_: pytest.fail("computed again"))
        choices.append(
            choose_per_task(
                Method.load(name), evaluator, lambda method: merge(base, finetuned, method), Race(1.0, 10)
            ).chosen
        )
    assert choices[0] == choices[1]
