"""Paired comparison of two methods on the same test examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Correct = Mapping[str, NDArray[np.bool_]]  # task -> whether each test example (N,) was right


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies (fractions), and its paired standard error over the test examples."""

    mean: float
    error: float


@dataclass(frozen=True)
class Comparison:
    """One method minus another, by task and on average over the tasks.

    `better` and `worse` count the examples that one method classifies correctly in more runs (one per seed) than the
    other; `p` is the p-value of the exact McNemar test on them. `over_seeds` is the standard error of the average over
    the seeds, NaN for one seed.
    """

    tasks: Mapping[str, Difference]
    average: Difference
    better: int
    worse: int
    p: float
    over_seeds: float


def compare(first: Sequence["Correct"], second: Sequence["Correct"]) -> Comparison:
    """Compare two methods by their correctly classified test examples, seed by seed.

    An example's difference is averaged over the seeds first, since the examples are the same in all of them; tasks are
    independent of each other. McNemar's exact test is a binomial test of the examples in which the methods differ
    (Psychometrika 12, 1947).

    Raises:
        ValueError: the two do not have the same tasks, examples or seeds.
    """
    import numpy as np
    from scipy.stats import binomtest, sem

    tasks: dict[str, Difference] = {}
    better = worse = 0
    for task in first[0]:
        runs = [np.subtract(one[task], other[task], dtype=np.float64) for one, other in zip(first, second, strict=True)]
        each = np.mean(runs, axis=0)
        tasks[task] = Difference(float(each.mean()), float(sem(each)) if len(each) > 1 else math.nan)
        better += int((each > 0).sum())
        worse += int((each < 0).sum())
    average = Difference(
        fmean(value.mean for value in tasks.values()),
        math.sqrt(math.fsum(value.error**2 for value in tasks.values())) / len(tasks),
    )
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    seeds = [
        fmean(float(one[task].mean()) - float(other[task].mean()) for task in tasks)
        for one, other in zip(first, second, strict=True)
    ]
    over_seeds = stdev(seeds) / math.sqrt(len(seeds)) if len(seeds) > 1 else math.nan
    return Comparison(tasks, average, better, worse, p, over_seeds)
