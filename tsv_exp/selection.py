"""Exact order statistics of a stream that is too large to sort or copy."""

import torch
from torch import Tensor

from tsv_exp.task_vectors import Layer, TaskVectors

_DIGIT = 16  # bits decided per pass


def kth_magnitudes(stream: TaskVectors, rank: int) -> Tensor:
    """Of each task the rank-th smallest magnitude (from 1) of its flattened task vector; rank 0 is 0.

    Radix selection on bits: the bits of a non-negative float, read as an integer, are in the order of the floats. Each
    pass counts the next 16 bits of the entries that share the bits already decided: two passes in float32.
    """
    dtype, tasks = stream.dtype, len(stream.tasks)
    integer, width = (torch.int64, 63) if dtype == torch.float64 else (torch.int32, 31)
    prefix, remaining = [0] * tasks, [rank] * tasks
    for bits in range(width if rank else 0, 0, -_DIGIT):
        shift = max(0, bits - _DIGIT)
        digits = 1 << (bits - shift)

        def count(layer: Layer, bits: int = bits, shift: int = shift, digits: int = digits) -> Tensor:
            rows = []
            for known, values in zip(prefix, layer.deltas.to(dtype).reshape(tasks, -1), strict=True):
                found = values.abs().view(integer)
                if bits < width:  # others fall below 0 or beyond the last digit
                    found = found.sub_(known << bits).clamp_(-1, 1 << bits)
                rows.append(
                    torch.bincount(found.bitwise_right_shift_(shift).add_(1), minlength=digits + 2)[1 : digits + 1]
                )
            return torch.stack(rows).cpu()

        counts = sum(stream.map(count), start=torch.zeros(tasks, digits, dtype=torch.int64))
        for task, cumulative in enumerate(counts.cumsum(1)):
            digit = int(torch.searchsorted(cumulative, remaining[task]))
            remaining[task] -= int(cumulative[digit - 1]) if digit else 0
            prefix[task] = prefix[task] << (bits - shift) | digit
    return torch.tensor(prefix, dtype=integer).view(dtype)
