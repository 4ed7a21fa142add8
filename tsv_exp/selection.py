"""Exact order statistics of a stream that is too large to sort or copy."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tsv_exp.task_vectors import TaskVectors

_DIGIT = 16  # bits decided per pass


def kth_magnitudes(stream: TaskVectors, rank: int) -> Tensor:
    """Of each task the rank-th smallest magnitude (from 1) of its flattened task vector; rank 0 is 0.

    Radix selection on bits: the bits of a non-negative float, read as an integer, are in the order of the floats. Each
    pass counts the next 16 bits of the entries that share the bits already decided: two passes in float32.
    """
    integer, width = (torch.int64, 63) if stream.dtype == torch.float64 else (torch.int32, 31)
    tasks = len(stream.tasks)
    prefix, remaining = [0] * tasks, [rank] * tasks
    if rank:
        for bits in range(width, 0, -_DIGIT):
            shift = max(0, bits - _DIGIT)
            counts = torch.zeros(tasks, 1 << (bits - shift), dtype=torch.int64)
            for task, chunk in _magnitudes(stream, integer):
                candidates = chunk if bits == width else chunk[chunk >> bits == prefix[task]]
                digits = (candidates >> shift) & ((1 << (bits - shift)) - 1)
                counts[task] += torch.bincount(digits, minlength=counts.shape[1]).cpu()
            for task, cumulative in enumerate(counts.cumsum(1)):
                digit = int(torch.searchsorted(cumulative, remaining[task]))
                remaining[task] -= int(cumulative[digit - 1]) if digit else 0
                prefix[task] = (prefix[task] << (bits - shift)) | digit
    return torch.tensor(prefix, dtype=integer).view(stream.dtype)


def _magnitudes(stream: TaskVectors, integer: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Task indices and the magnitudes of one layer as integers."""
    for layer in stream:
        yield from enumerate(layer.deltas.to(stream.dtype).reshape(len(stream.tasks), -1).abs().view(integer))
