"""Rank correlations and their bootstrap intervals."""

from collections.abc import Callable

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing their mean."""
    order, counts = np.unique(values, return_inverse=True, return_counts=True)[1:]
    return (np.cumsum(counts) - (counts + 1) / 2)[order]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; nan where one of them is constant."""
    a, b = ranks(x) - ranks(x).mean(), ranks(y) - ranks(y).mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else float("nan")


def within_sizes(x: np.ndarray, y: np.ndarray, sizes: np.ndarray) -> float:
    """Rank correlation after ranking within each size, which removes the effect of the number of tasks."""
    scaled = [np.concatenate([_share(v[sizes == size]) for size in np.unique(sizes)]) for v in (x, y)]
    return spearman(*scaled)


def _share(values: np.ndarray) -> np.ndarray:
    return (ranks(values) + 0.5) / len(values)


Interval = tuple[float, float, float]  # a statistic, and the ends of its 95 % bootstrap interval


def interval(statistic: Callable[[np.ndarray], float], count: int, groups: np.ndarray, draws: int = 2000) -> Interval:
    """A statistic of subset indices and its 95 % percentile bootstrap interval, resampled within groups."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = [statistic(np.concatenate([rng.choice(m, len(m)) for m in members])) for _ in range(draws)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return statistic(np.arange(count)), float(low), float(high)


def shown(value: Interval) -> str:
    """A statistic with its interval, as text for tables."""
    return f"{value[0]:+.2f} [{value[1]:+.2f}, {value[2]:+.2f}]"


def correlation(x: np.ndarray, y: np.ndarray, sizes: np.ndarray, within: bool) -> Interval:
    """Rank correlation of a predictor with a loss, over all subsets or within sizes."""
    if within:
        return interval(lambda i: within_sizes(x[i], y[i], sizes[i]), len(x), sizes)
    return interval(lambda i: spearman(x[i], y[i]), len(x), np.zeros(len(x)))
