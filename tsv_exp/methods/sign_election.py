"""TIES-Merging (arXiv 2306.01708): trim, elect a sign per entry, average the entries that agree."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from threading import Lock
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.merging.layer import entrywise
from tsv_exp.merging.selection import kth_magnitudes
from tsv_exp.merging.task_vectors import TaskVectors

Majority: TypeAlias = Callable[[], int]


def ties_statistics(stream: TaskVectors, density: float) -> Mapping[str, Any]:
    """Statistics of the whole flattened task vectors of d entries, frozen zeros included.

    Returns:
        thresholds (T,): of each task the (d − floor(density · d))-th smallest magnitude.
        majority: returns the sign of the sum over all entries of their elected signs. It takes a pass over all
            layers on its first call only, since sums that cancel are rare.
    """
    if not 0 < density <= 1:
        raise UserError(f"density={density}: it is the share of entries that is kept; give a number in (0, 1]")
    size = stream.size
    thresholds = kth_magnitudes(stream.with_progress("trimming"), size - math.floor(density * size + 1e-9))
    lock = Lock()

    @cache
    def counted() -> int:
        votes = sum(
            stream.map(lambda layer: sum(int(_elect(_trimmed(part, thresholds)).sum()) for part in layer.blocks()))
        )
        return (votes > 0) - (votes < 0)

    def majority() -> int:
        with lock:  # layers are merged by several threads
            return counted()

    return {"thresholds": thresholds, "majority": majority}


@entrywise
def ties(deltas: Tensor, thresholds: Tensor, majority: Majority) -> Tensor:
    """TIES-Merging (arXiv 2306.01708): trim, elect a sign per entry, mean of the entries that agree.

    The elected sign is that of the sum over tasks of the trimmed entries; where the sum is 0 it is the `majority`
    sign, and where that is 0 too the negative one, as in the official code.
    """
    trimmed = _trimmed(deltas, thresholds)
    elected = _elect(trimmed)
    cancelled = (elected == 0) & (trimmed.amax(0) > 0)  # where entries cancel, one of them is positive
    if cancelled.any():
        elected[cancelled] = majority() or -1
    agreeing = (trimmed * elected).relu_()
    return agreeing.sum(0) * elected / agreeing.sign_().sum(0).clamp_(min=1)


def _trimmed(deltas: Tensor, thresholds: Tensor) -> Tensor:
    """The deltas without small entries: zero where the magnitude is below the threshold (T,) of the task."""
    below = torch.nextafter(thresholds.to(deltas), torch.tensor(-1.0).to(deltas)).tolist()  # ≥ x is > the float below x
    trimmed = torch.empty_like(deltas)
    for delta, limit, out in zip(deltas, below, trimmed, strict=True):
        torch.ops.aten.hardshrink.out(delta, limit, out=out)
    return trimmed


def _elect(trimmed: Tensor) -> Tensor:
    """The sign of the sum over tasks; in float64, so that float32 entries that cancel do so exactly."""
    return trimmed.sum(0, dtype=torch.float64).sign().to(trimmed.dtype)
