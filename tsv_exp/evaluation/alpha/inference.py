"""Predictions of many values from those of a few: two values that classify an example alike tell how others do.

The values are ordered so that neighbours are alike, as those of a scalar are.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WIDEST = 12  # how far apart two values may be that tell how those between them classify

Predict = Callable[[int, NDArray[np.int64]], NDArray[np.int64]]


def inferred(values: int, count: int, predict: Predict) -> tuple[NDArray[np.int64], int]:
    """Predictions (values, count) of all values for all examples, and how many of them were computed.

    `predict` is called once for each value.

    Args:
        values: their number, ordered so that neighbours are alike.
        count: of examples.
        predict: the classes that a value predicts for examples, given by their indices (n,).
    """
    found = np.empty((values, count), np.int64)
    return found, resolve(found, np.arange(values), np.arange(count), predict)


def resolve(found: NDArray[np.int64], live: NDArray[np.int64], rows: NDArray[np.int64], predict: Predict) -> int:
    """Fill in the predictions of these values for these examples; returns how many of them were computed."""
    outer, between = _order(live)
    for value in outer:
        found[value, rows] = predict(value, rows)
    asked = len(outer) * len(rows)
    for low, middle, high in between:
        known = found[low, rows]
        differ = rows[known != found[high, rows]]
        found[middle, rows] = known
        if len(differ):
            found[middle, differ] = predict(middle, differ)
        asked += len(differ)
    return asked


def cost(found: NDArray[np.int64], live: NDArray[np.int64], share: NDArray[np.float64]) -> float:
    """Predictions that `resolve` needs for these values, by examples whose predictions are known.

    Each of these stands for `share` (n,) of the examples that it is asked for.
    """
    outer, between = _order(live)
    return len(outer) * share.sum() + math.fsum(
        float(share[found[low] != found[high]].sum()) for low, _, high in between
    )


def _order(live: NDArray[np.int64]) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The values that are computed for every example, and each other one with two around it that come before it."""
    widths = math.ceil((live[-1] - live[0]) / WIDEST)
    outer = np.unique(np.linspace(0, len(live) - 1, widths + 1).round().astype(np.int64))
    between = [part for ends in pairwise(live[outer].tolist()) for part in _halves(*ends)]
    return live[outer].tolist(), between


def _halves(low: int, high: int) -> Iterator[tuple[int, int, int]]:
    """The values between two others, each with two around it that come before it."""
    if high - low > 1:
        middle = (low + high) // 2
        yield low, middle, high
        yield from _halves(low, middle)
        yield from _halves(middle, high)
