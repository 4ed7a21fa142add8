"""Racing: the best of many values of α, compared on growing, paired subsets of the validation examples."""

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tsv_exp.errors import UserError
from tsv_exp.evaluation.alpha.choice import Candidate, Choice, Examples, Grid, Point
from tsv_exp.evaluation.alpha.inference import Predict, cost, resolve
from tsv_exp.runtime.console import bar

log = logging.getLogger(__name__)

FIRST = 1 / 64  # share of the examples in the first round; every round doubles it
ROUNDS = 7  # until all examples are seen
MARGIN = 1.1  # how much dearer than the examples before the next ones may be
LARGE = 1000  # validation examples of a task on average, above which `Auto` races
LAST = 2.2  # predictions per example that are reserved for the rounds after the next one: two values, and a little


@dataclass(frozen=True)
class Race:
    """Races the grid's values (see `race`); scores the whole grid if a task's metric is no mean over its examples.

    `error`: probability that the best value is dropped. `passes`: limit of predictions, in multiples of the validation
    examples.
    """

    stop: float
    steps: int
    error: float = 0.05
    passes: float = 3.0

    def __post_init__(self) -> None:
        Grid(self.stop, self.steps)  # checks them
        if not 0 < self.error < 1:
            raise UserError(f"alpha.error={self.error}: give a probability between 0 and 1")
        if not self.passes > 0:
            raise UserError(f"alpha.passes={self.passes}: give a positive number")

    def races(self, counts: Collection[int]) -> bool:
        """Whether values are raced on tasks with so many validation examples each."""
        return True

    def choose(self, candidate: Candidate) -> Choice:
        """Race the values; every point has the number of examples on which it was measured."""
        grid = Grid(self.stop, self.steps)
        if self.steps == 1:
            return grid.choose(candidate)
        examples = candidate.examples()
        if examples is None:
            log.info("a task's metric is not a mean over examples, so the whole grid is scored")
            return grid.choose(candidate)
        values = [grid.value(i) for i in range(1, self.steps + 1)]
        raced = self._raced(values, examples)
        count, names = sum(map(len, examples.labels.values())), list(examples.labels)
        tried = [
            Point.of(value, dict(zip(names, row, strict=True)), examples.finetuned, int(number))
            for value, row, number in zip(values, raced.accuracy.tolist(), raced.examples, strict=True)
        ]
        chosen, passes = tried[raced.chosen], raced.asked / count
        log.info("α %.3g won on %d of %d examples, after %.1f passes", chosen.alpha, chosen.examples, count, passes)
        grid.warn_at_end(chosen.alpha)
        return Choice(chosen.alpha, tried, passes)

    def _raced(self, values: Sequence[float], examples: Examples) -> "Raced":
        names = list(examples.labels)
        tasks, rows = interleaved([len(labels) for labels in examples.labels.values()])
        labels = np.empty_like(tasks)
        for index, name in enumerate(names):
            labels[tasks == index] = examples.labels[name][rows[tasks == index]]
        factors = [1 / examples.finetuned[name] if examples.finetuned[name] > 0 else 0.0 for name in names]

        with bar("racing α on validation", round(self.passes * len(labels))) as (progress, done):

            def predict(value: int, asked: NDArray[np.int64]) -> NDArray[np.int64]:
                found = np.empty_like(asked)
                for index in np.unique(tasks[asked]):
                    own = tasks[asked] == index
                    found[own] = examples.predict(values[value], names[index], rows[asked[own]])
                progress.advance(done, len(asked))
                return found

            return race(len(values), tasks, labels, np.array(factors) / len(names), predict, self.error, self.passes)


@dataclass(frozen=True)
class Auto(Race):
    """`Race` if the tasks have more than 1,000 validation examples on average, else `Grid` (docs/choosing_alpha.md)."""

    def races(self, counts: Collection[int]) -> bool:
        """Whether they are more than 1,000 on average."""
        return sum(counts) > LARGE * len(counts)

    def choose(self, candidate: Candidate) -> Choice:
        """Choose as the one or the other."""
        examples = candidate.examples() if self.steps > 1 else None
        large = examples is not None and self.races([len(labels) for labels in examples.labels.values()])
        policy = Race(**vars(self)) if large else Grid(self.stop, self.steps)
        return replace(policy.choose(candidate), policy=policy)


@dataclass(frozen=True)
class Raced:
    """What a race found. `accuracy` (values, T) are fractions, measured on the first `examples` (values,) in order.

    `chosen` is the index of the best value, on ties the smallest; `asked` counts predictions that were computed.
    """

    chosen: int
    accuracy: NDArray[np.float64]
    examples: NDArray[np.int64]
    asked: int


def race(
    values: int,
    tasks: NDArray[np.int64],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    predict: Predict,
    error: float,
    passes: float,
) -> Raced:
    """Race `values` values, ordered so that neighbours are alike, for the best weighted mean accuracy over T tasks.

    After each round the values at both ends are dropped, one after the other from the outermost inwards, while the
    leader is surely better: with d the paired differences of what the two get right, weighted by task, and c the weight
    of one example, while Σ d − c > z √Σ d², McNemar's test with continuity correction. z is the normal quantile of
    error / (2 · rounds): of tests in a fixed sequence that stops at the first that fails none needs a correction for
    the others (Westfall & Krishen, Journal of Statistical Planning and Inference 99, 2001), rounds and ends are
    corrected for by Bonferroni. The rate holds for a leader given beforehand; it is approximate, since the leader is
    the best so far.

    Then, if the limit of predictions does not suffice for all these values in the next round and for two in the rounds
    after it, the worse of both ends is dropped too, until it does.

    An example that two values at most twelve apart classify alike is taken to be so classified by all between them. So,
    of the values that are left, the outermost are computed for every example, the others where their neighbours differ.

    Args:
        values: their number.
        tasks: the task (N,) of each example, in an order whose beginnings are samples of all tasks; see `interleaved`.
        labels: the class (N,) of each example.
        weights: factor (T,) of each task's accuracy.
        predict: the classes that a value predicts for examples, given by their indices (n,).
        error: probability that the best value is dropped.
        passes: limit of predictions, in multiples of N.

    Returns:
        the best of the values left when one is left or all examples are seen.
    """
    count, limit = len(labels), NormalDist().inv_cdf(1 - error / (2 * ROUNDS))
    right, seen = np.zeros((values, len(weights))), np.ones((values, len(weights)))
    examples = np.zeros(values, np.int64)
    found = np.empty((values, count), labels.dtype)
    live, start, asked = np.arange(values), 0, 0
    end = min(count, max(len(weights), math.ceil(FIRST * count)))
    goal = min(1.0, passes / 3) * count  # how many examples it aims at
    for _ in range(ROUNDS):
        asked += resolve(found, live, np.arange(start, end), predict)
        sizes = np.bincount(tasks[:end], minlength=len(weights))
        correct = found[live, :end] == labels[:end]
        right[live] = [np.bincount(tasks[:end], one, len(weights)) for one in correct]
        seen[live], examples[live] = sizes, end
        scores, each = _scores(right / seen, weights), (weights / sizes)[tasks[:end]]
        lead = (correct[live == _best(live, scores)].astype(np.int8) - correct) * each
        kept = np.flatnonzero(lead.sum(1) - each.max() <= limit * np.sqrt(np.square(lead).sum(1)))
        live = live[kept[0] : kept[-1] + 1]
        after = min(count, 2 * end)
        left = passes * count - asked - LAST * max(0.0, goal - after)
        share = (np.bincount(tasks[end:after], minlength=len(weights)) / sizes)[tasks[:end]]
        while len(live) > 1 and cost(found[:, :end], live, share) * MARGIN > left:
            live = live[1:] if scores[live[0]] < scores[live[-1]] else live[:-1]
        if len(live) == 1 or end == count:
            break
        start, end = end, after
    return Raced(_best(live, _scores(right / seen, weights)), right / seen, examples, asked)


def interleaved(counts: Sequence[int], seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tasks (N,) and rows (N,) of all examples in a random order whose beginnings hold equally many of every task.

    Tasks count alike, whatever their size, so their accuracies should be equally exact. Small tasks end first.

    Args:
        counts: number of examples of each task, N in all.
        seed: of the order.
    """
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(count) for count in counts]
    order = np.argsort(np.concatenate([np.arange(count) for count in counts]), kind="stable")
    return np.repeat(np.arange(len(counts)), counts)[order], np.concatenate(rows)[order]


def _scores(accuracy: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sums (values,) over tasks, equal where accuracies are: BLAS rounds equal rows differently."""
    return np.array([math.fsum(row) for row in accuracy * weights])


def _best(live: NDArray[np.int64], scores: NDArray[np.float64]) -> int:
    """The value with the highest score, on ties the first."""
    return int(live[scores[live].argmax()])
