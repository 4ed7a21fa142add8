import math
import random
from typing import Any

import pytest

from tsv_exp.errors import UserError
from tsv_exp.evaluation.alpha import Choice, Fixed, Grid, Point, Search, mean, normalized, protocol
from tsv_exp.evaluation.alpha.data_free import DataFree
from tsv_exp.evaluation.alpha.race import Race
from tsv_exp.methods.specification.method import Alpha

FINETUNED = {"a": 0.8, "b": 0.5}


def scored(values: dict[float, float], seen: list[float]):
    def score(alpha: float) -> Point:
        seen.append(alpha)
        value = values[round(alpha, 6)]
        return Point.of(alpha, {"a": value, "b": value}, FINETUNED)

    return score


def test_the_grid_scores_every_value_once_and_takes_the_best() -> None:
    seen: list[float] = []
    choice = Grid(3.0, 3).choose(scored({1.0: 0.2, 2.0: 0.4, 3.0: 0.3}, seen))
    assert choice.alpha == 2.0
    assert seen == [1.0, 2.0, 3.0] == [point.alpha for point in choice.tried]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({1.0: 0.2, 2.0: 0.3, 3.0: 0.4}, ["α 3 is the largest of its grid; a larger one may be better: alpha.stop=6"]),
        (
            {1.0: 0.4, 2.0: 0.3, 3.0: 0.4},
            ["α 1 is the smallest of its grid; a smaller one may be better: alpha.steps=6"],
        ),
        ({1.0: 0.2, 2.0: 0.4, 3.0: 0.4}, []),
    ],
)
def test_an_end_of_the_grid_is_said(
    values: dict[float, float], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    Grid(3.0, 3).choose(scored(values, []))
    assert caplog.messages == said


def test_the_smallest_of_equals_wins() -> None:
    assert Grid(3.0, 3).choose(scored({1.0: 0.1, 2.0: 0.4, 3.0: 0.4}, [])).alpha == 2.0


def test_a_grid_of_one_value_needs_no_data() -> None:
    seen: list[float] = []
    choice = Grid(0.0, 1).choose(scored({}, seen))
    assert (choice.alpha, list(choice.tried), seen) == (0.0, [], [])


def test_fixed_needs_no_data() -> None:
    choice = Fixed(0.7).choose(scored({}, []))
    assert (choice.alpha, list(choice.tried)) == (0.7, [])


def test_points_weigh_tasks_by_their_fine_tuned_models() -> None:
    point = Point.of(1.0, {"a": 0.4, "b": 0.5}, FINETUNED)
    assert point.mean_accuracy == pytest.approx(0.45)
    assert point.mean_normalized == pytest.approx((0.5 + 1.0) / 2)
    assert normalized({"a": 0.4}, {"a": 0.0}) == {"a": 0.0}
    assert mean({"a": 1.0, "b": 0.0}) == 0.5


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "one", None, True])
def test_alpha_outside_its_domain(value: float) -> None:
    with pytest.raises(UserError, match="alpha"):
        Fixed(value)
    with pytest.raises(UserError, match="alpha"):
        Grid(value, 3)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps_outside_their_domain(steps: int) -> None:
    with pytest.raises(UserError, match="steps"):
        Grid(1.0, steps)


def curve(peak: float, width: float, noise: float, seed: int) -> list[float]:
    """Accuracies on a grid of 30 with one peak, steeper below it than above, as validation measures them."""
    generator = random.Random(seed)
    exact = [0.3 + 0.5 * math.exp(-(((i - peak) / (width if i < peak else 2 * width)) ** 2)) for i in range(1, 31)]
    return [value + generator.uniform(-noise, noise) for value in exact]


@pytest.mark.parametrize("width", [4.0, 8.0, 16.0])
@pytest.mark.parametrize("peak", [1, 2, 5, 8, 11, 15, 17, 22, 26, 30])
def test_search_finds_what_the_grid_finds_with_a_third_of_its_passes(peak: int, width: float) -> None:
    for seed in range(5):
        values = dict(zip([round(0.1 * i, 6) for i in range(1, 31)], curve(peak, width, 0.001, seed), strict=True))
        seen: list[float] = []
        choice = Search(3.0, 30).choose(scored(values, seen))
        assert len(seen) == len(set(seen)) == 10
        assert sorted(seen) == [point.alpha for point in choice.tried]
        assert max(values.values()) - values[round(choice.alpha, 6)] <= 0.002 * min(FINETUNED.values())


def test_search_takes_the_smallest_of_equals_on_a_plateau() -> None:
    seen: list[float] = []
    choice = Search(3.0, 30).choose(scored({round(0.1 * i, 6): 0.5 for i in range(1, 31)}, seen))
    assert choice.alpha == min(seen)


@pytest.mark.parametrize(("steps", "passes"), [(1, 0), (2, 2), (11, 11), (12, 4), (31, 10)])
def test_a_grid_too_short_to_search_is_scored_whole(steps: int, passes: int) -> None:
    seen: list[float] = []
    Search(1.0, steps).choose(scored({round(i / steps, 6): 1 - (i / steps) ** 2 for i in range(1, steps + 1)}, seen))
    assert len(seen) == passes


class Vertical:
    """A policy of a user's own."""

    def __init__(self) -> None:
        self.passes, self._memory = 7, {}

    def choose(self, candidate: object, /) -> Choice:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("policy", "alpha", "expected"),
    [
        (Grid(3.0, 30), 1.1, ("grid", {"stop": 3.0, "steps": 30}, {})),
        (Grid(3.0, 5), 1.2, ("grid", {"stop": 3.0, "steps": 5}, {"steps": 5})),
        (Search(2.0, 30), 1.2, ("search", {"stop": 2.0, "steps": 30}, {"stop": 2.0})),
        (Fixed(1.0), 1.0, ("fixed", {"value": 1.0, "validate": False}, {})),
        (Fixed(0.3), 0.3, ("fixed", {"value": 0.3, "validate": False}, {"value": 0.3})),
        (
            Race(3.0, 30, error=0.2),
            0.3,
            ("race", {"stop": 3.0, "steps": 30, "error": 0.2, "passes": 3.0}, {"error": 0.2}),
        ),
        (DataFree(), 0.8, ("data_free", {}, {})),
        (Vertical(), 0.8, ("vertical", {"passes": 7}, {})),
    ],
)
def test_the_protocol_says_what_is_not_the_methods_own(policy: Any, alpha: float, expected: tuple[Any, ...]) -> None:
    found = protocol(policy, Alpha(default=1.0, stop=3.0, steps=30), alpha)
    assert tuple(found.values()) == expected


def test_a_method_with_one_alpha_has_no_protocol() -> None:
    mean = Alpha(default=1.0, stop=1.0, steps=1)
    assert {protocol(policy, mean, 1.0)["policy"] for policy in (Grid(1.0, 1), Fixed(1.0), DataFree())} == {"none"}
    assert protocol(Fixed(0.5), mean, 0.5)["changed"] == {"value": 0.5}
