"""Values of α within one validation example of each other are decided in float32."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tsv_exp.evaluation.alpha import Choice, Point
from tsv_exp.evaluation.alpha.near_ties import near, one_example, settle

FINETUNED = {"a": 0.8, "b": 0.5}
COUNTS = {"a": 10, "b": 40}  # one example is worth 1 / (2 · 10 · 0.8) = 0.0625 or 1 / (2 · 40 · 0.5) = 0.025


def points(values: Mapping[float, float]) -> list[Point]:
    return [Point(alpha, value, value, {}) for alpha, value in values.items()]


class Evaluated:
    """An evaluator whose float32 accuracies are given, by α."""

    def __init__(self, accuracy: Mapping[float, float], dtype: torch.dtype = torch.bfloat16) -> None:
        self.accuracy, self.dtype, self.asked = accuracy, dtype, list[float]()

    def counts(self, split: str) -> dict[str, int]:
        assert split == "validation"
        return COUNTS

    def accuracies(self, merged: Any, alpha: float, split: str, dtype: torch.dtype) -> dict[str, float]:
        assert (split, dtype) == ("validation", torch.float32)
        self.asked.append(alpha)
        return dict.fromkeys(FINETUNED, self.accuracy[alpha])


def settled(choice: Choice, evaluator: Any) -> Choice:
    return settle(choice, None, evaluator, lambda split: FINETUNED)  # type: ignore[arg-type]


def test_one_example_is_worth_most_on_the_smallest_task() -> None:
    assert one_example(FINETUNED, COUNTS) == pytest.approx(0.0625)
    assert near(points({1.0: 0.7375, 2.0: 0.8, 3.0: 0.737, 4.0: 0.79}), 0.0625) == [1.0, 2.0, 4.0]


def test_float32_decides_between_near_ties_and_only_they_are_scored_again() -> None:
    choice = Choice(2.0, points({1.0: 0.79, 2.0: 0.8, 3.0: 0.5}))
    evaluator = Evaluated({1.0: 0.42, 2.0: 0.41})
    found = settled(choice, evaluator)
    assert (found.alpha, evaluator.asked) == (1.0, [1.0, 2.0])
    assert [point.alpha for point in found.near_ties] == [1.0, 2.0]
    assert found.tried == choice.tried
    assert settled(choice, Evaluated({1.0: 0.42, 2.0: 0.42})).alpha == 1.0  # a tie in float32 too: the smallest
    assert settled(choice, Evaluated({1.0: 0.41, 2.0: 0.42})).alpha == 2.0


@pytest.mark.parametrize(
    "choice",
    [
        Choice(1.0),
        Choice(1.0, points({1.0: 0.8})),
        Choice(1.0, points({1.0: 0.8, 2.0: 0.5})),
        Choice(2.0, points({1.0: 0.79, 2.0: 0.8}), passes=2.0),
    ],
)
def test_a_clear_choice_stays(choice: Choice) -> None:
    assert settled(choice, Evaluated({})) is choice


def test_float32_needs_no_second_look() -> None:
    choice = Choice(2.0, points({1.0: 0.79, 2.0: 0.8}))
    assert settled(choice, Evaluated({}, torch.float32)) is choice
