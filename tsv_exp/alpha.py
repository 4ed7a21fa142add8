"""The choice of α, and of other scalars, on validation data."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from tsv_exp.errors import UserError
from tsv_exp.progress import track


@dataclass(frozen=True)
class Point:
    """Accuracies (fractions) at one α: per task, on average, and relative to the fine-tuned models."""

    alpha: float
    mean_accuracy: float
    mean_normalized: float
    accuracy: Mapping[str, float]

    @classmethod
    def of(cls, alpha: float, accuracy: Mapping[str, float], finetuned: Mapping[str, float]) -> "Point":
        """The point of these accuracies, normalized by those of the fine-tuned models."""
        relative = normalized(accuracy, finetuned)
        return cls(alpha, mean(accuracy), mean(relative), accuracy)

    def plain(self) -> dict[str, object]:
        """As results.json holds it."""
        return asdict(self)


def mean(values: Mapping[str, float]) -> float:
    """The mean over tasks."""
    return math.fsum(values.values()) / len(values)


def normalized(accuracy: Mapping[str, float], finetuned: Mapping[str, float]) -> dict[str, float]:
    """Accuracy divided by that of the task's fine-tuned model (0 where that one never was right)."""
    return {task: value / finetuned[task] if finetuned[task] else 0.0 for task, value in accuracy.items()}


@dataclass(frozen=True)
class Choice:
    """The chosen α and what was tried for it, in ascending order; nothing was tried where α is fixed."""

    alpha: float
    tried: Sequence[Point] = field(default=())


@dataclass(frozen=True)
class Candidate:
    """A merged model whose α is sought: called with an α it is scored on validation; `scale` is what needs no data."""

    score: Callable[[float], Point]
    scale: Callable[[], float]

    def __call__(self, alpha: float) -> Point:
        """Its accuracies at α."""
        return self.score(alpha)


class Policy(Protocol):
    """How α is found: conf/alpha."""

    def choose(self, candidate: Candidate, /) -> Choice:
        """Choose by the points that the candidate scores, or without data."""
        ...


@dataclass(frozen=True)
class Fixed:
    """A given α; no validation data are looked at."""

    value: float

    def __post_init__(self) -> None:
        check("alpha.value", self.value)

    def choose(self, score: Callable[[float], Point]) -> Choice:
        """The given value."""
        return Choice(float(self.value))


@dataclass(frozen=True)
class Grid:
    """Every stop · i / steps, i = 1 … steps: the best mean normalized accuracy wins, the smallest α among equals."""

    stop: float
    steps: int

    def __post_init__(self) -> None:
        check("alpha.stop", self.stop)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise UserError(f"alpha.steps={self.steps}: give the number of values as a positive integer")

    def choose(self, score: Callable[[float], Point]) -> Choice:
        """Score the whole grid; a grid of one value has nothing to choose."""
        values = [self.stop * i / self.steps for i in range(1, self.steps + 1)]
        if len(values) == 1:
            return Choice(values[0])
        tried = [score(value) for value in track(values, "choosing α on validation")]
        return Choice(best(tried).alpha, tried)


def best(points: Sequence[Point]) -> Point:
    """The point of highest mean normalized accuracy, of smallest α among equals."""
    return max(points, key=lambda point: (point.mean_normalized, -point.alpha))


def check(key: str, value: object) -> None:
    """Raise a UserError unless a value is a finite number from 0 up."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UserError(f"{key}={value}: α must be a finite number from 0 up")
