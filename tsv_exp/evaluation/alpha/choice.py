"""The choice of α, and of other scalars, on validation data."""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tsv_exp.errors import UserError
from tsv_exp.runtime.console import track

if TYPE_CHECKING:  # torch, which a wrong α need not wait for
    from tsv_exp.methods.specification.scaling import Alpha as MethodAlpha

log = logging.getLogger(__name__)

LEAST = 4  # fewest passes with which a search can score more than three values


@dataclass(frozen=True)
class Point:
    """Accuracies (fractions) at one α: per task, on average, and relative to the fine-tuned models.

    `examples`: number of validation examples that they were measured on; None: all.
    """

    alpha: float
    mean_accuracy: float
    mean_normalized: float
    accuracy: Mapping[str, float]
    examples: int | None = None

    @classmethod
    def of(
        cls, alpha: float, accuracy: Mapping[str, float], finetuned: Mapping[str, float], examples: int | None = None
    ) -> "Point":
        """The point with these accuracies, normalized by those of the fine-tuned models."""
        relative = normalized(accuracy, finetuned)
        return cls(alpha, mean(accuracy), mean(relative), accuracy, examples)

    def plain(self) -> dict[str, object]:
        """Plain values, as stored in results.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def mean(values: Mapping[str, float]) -> float:
    """The mean over tasks."""
    return math.fsum(values.values()) / len(values)


def normalized(accuracy: Mapping[str, float], finetuned: Mapping[str, float]) -> dict[str, float]:
    """Accuracy divided by that of the task's fine-tuned model (0 if that model's accuracy is 0)."""
    return {task: value / finetuned[task] if finetuned[task] > 0 else 0.0 for task, value in accuracy.items()}


@dataclass(frozen=True)
class Choice:
    """The chosen α and the points that were scored, in ascending order of α; no points if α is given.

    `passes`: predictions that this took, in multiples of the validation examples; None: one pass for every point.
    `near_ties`: the values within one example of the best, scored in float32 (see `near_ties`).
    `policy`: the rule that was used, if the configured one leaves that open.
    """

    alpha: float
    tried: Sequence[Point] = field(default=())
    passes: float | None = None
    near_ties: Sequence[Point] = field(default=())
    policy: "Policy | None" = None


@dataclass(frozen=True)
class Examples:
    """The validation examples one by one: labels by task, accuracies of the fine-tuned models, and predictions.

    `predict` takes an α, a task, and row indices (n,) of the task's examples; it returns classes (n,).
    """

    labels: Mapping[str, NDArray[np.int64]]
    finetuned: Mapping[str, float]
    predict: Callable[[float, str, NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True)
class Candidate:
    """A merged model without α.

    Calling it with an α scores it on validation; `scale` returns the data-free α; `examples` the validation examples,
    or None if accuracies are no means over examples.
    """

    score: Callable[[float], Point]
    scale: Callable[[], float]
    examples: Callable[[], Examples | None] = lambda: None

    def __call__(self, alpha: float) -> Point:
        """Score the model at α."""
        return self.score(alpha)


class Policy(Protocol):
    """A rule that chooses α; the configurations are in conf/alpha."""

    def choose(self, candidate: Candidate, /) -> Choice:
        """Choose α by scoring the candidate, or without data."""
        ...


@dataclass(frozen=True)
class Fixed:
    """A given α; with `validate` it is also scored on validation, for sweepers that search."""

    value: float
    validate: bool = False

    def __post_init__(self) -> None:
        check("alpha.value", self.value)

    def choose(self, score: Callable[[float], Point]) -> Choice:
        """Return the given value."""
        value = float(self.value)
        return Choice(value, [score(value)] if self.validate else ())


@dataclass(frozen=True)
class Grid:
    """Scores stop · i / steps for i = 1 … steps; the best mean normalized accuracy wins, on ties the smallest α."""

    stop: float
    steps: int

    def __post_init__(self) -> None:
        check("alpha.stop", self.stop)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise UserError(f"alpha.steps={self.steps}: give the number of values as a positive integer")

    def value(self, i: int) -> float:
        """The i-th value, counted from 1."""
        return self.stop * i / self.steps

    def choose(self, score: Callable[[float], Point]) -> Choice:
        """Score the whole grid; a grid of one value is not scored."""
        values = [self.value(i) for i in range(1, self.steps + 1)]
        if len(values) == 1:
            return Choice(values[0])
        tried = [score(value) for value in track(values, "choosing α on validation")]
        return self._chosen(tried)

    def _chosen(self, tried: Sequence[Point]) -> Choice:
        """The best of these points."""
        alpha = best(tried).alpha
        self.warn_at_end(alpha)
        return Choice(alpha, tried)

    def warn_at_end(self, alpha: float) -> None:
        """Warn if the chosen α is at an end of the grid, since a value outside may be better."""
        if alpha == self.value(self.steps):
            log.warning(
                "α %.3g is the largest of its grid; a larger one may be better: alpha.stop=%g", alpha, 2 * alpha
            )
        elif alpha == self.value(1):
            finer = 2 * self.steps
            log.warning("α %.3g is the smallest of its grid; a smaller one may be better: alpha.steps=%d", alpha, finer)


@dataclass(frozen=True)
class Search(Grid):
    """Finds the grid's best value with a third of its passes, if accuracy as a function of α has one broad peak.

    Scores three values spread over the grid, then values next to the best so far: at the vertex of the parabola
    through the best and its neighbours, else in the middle of the wider gap. Once both grid neighbours of the best are
    scored, the remaining passes go to values around it, because of noise and plateaus. Short grids are fully scored.
    """

    def choose(self, score: Callable[[float], Point]) -> Choice:
        """Score a third of the grid; the best point wins, on ties the smallest α."""
        passes = self.steps // 3
        if passes < LEAST:
            return super().choose(score)
        tried: dict[int, Point] = {}
        for _ in track(range(passes), "searching α on validation"):
            i = propose({j: point.mean_normalized for j, point in tried.items()}, self.steps)
            tried[i] = score(self.value(i))
        return self._chosen([tried[i] for i in sorted(tried)])


def protocol(policy: Policy, own: "MethodAlpha", alpha: float) -> dict[str, Any]:
    """How α was chosen, as stored in results.json: the policy's name, its parameters, and those that are no defaults.

    The defaults are the method's, and for the other parameters those of the policy's class.

    If the method's own grid has a single value and α equals it, there was no choice: the policy is `none`.
    """
    if own.steps == 1 and alpha == own.stop:
        return {"policy": "none", "parameters": {}, "changed": {}}
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(policy).__name__).lower()
    parameters = {key: value for key, value in vars(policy).items() if not key.startswith("_")}
    theirs = {key: getattr(type(policy), key) for key in parameters if hasattr(type(policy), key)}
    theirs |= {"value": own.default, "stop": own.stop, "steps": own.steps}
    changed = {key: parameters[key] for key, value in theirs.items() if parameters.get(key, value) != value}
    return {"policy": name, "parameters": parameters, "changed": changed}


def propose(scored: Mapping[int, float], steps: int) -> int:
    """Which of 1 … steps to score next, given the scores of some of them."""
    start = [round(steps * share) for share in (1 / 6, 1 / 2, 5 / 6)]
    if missing := [i for i in start if i not in scored]:
        return missing[0]
    top = max(scored, key=lambda i: (scored[i], -i))
    left = max((i for i in scored if i < top), default=0)
    right = min((i for i in scored if i > top), default=steps + 1)
    if right - left == 2:  # no unscored value between the best and its neighbours
        free = (i for i in range(1, steps + 1) if i not in scored)
        return min(free, key=lambda i: (abs(i - top), i))
    vertex = _vertex(scored, left, top, right) if left in scored and right in scored else None
    if vertex is not None and vertex not in scored:
        return vertex
    return (left + top) // 2 if top - left >= right - top else (top + right + 1) // 2


def _vertex(scores: Mapping[int, float], left: int, top: int, right: int) -> int | None:
    """The highest point of the parabola through three scored values, on the grid and strictly between the outer two."""
    rise, fall = (scores[top] - scores[left]) / (top - left), (scores[right] - scores[top]) / (right - top)
    if rise <= fall:
        return None
    vertex = round((left + top) / 2 + (right - left) / 2 * rise / (rise - fall))
    return vertex if left < vertex < right else None


def best(points: Sequence[Point]) -> Point:
    """The point with the highest mean normalized accuracy; on ties the one with the smallest α."""
    return max(points, key=lambda point: (point.mean_normalized, -point.alpha))


def check(key: str, value: object) -> None:
    """Raise a UserError unless a value is a finite number ≥ 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UserError(f"{key}={value}: α must be a finite number, at least 0")
