"""Exact order statistics of a stream that is too large to sort or copy."""

import torch
from torch import Tensor

from tsv_exp.task_vectors import Layer, TaskVectors

_DIGIT = 16  # bits


def kth_magnitudes(stream: TaskVectors, rank: int) -> Tensor:
    """Of each task the rank-th smallest magnitude (from 1) of its flattened task vector; rank 0 is 0.

    Radix selection on bits: the bits of a non-negative float, read as an integer, are in the order of the floats. Each
    pass counts the next digit (16 bits, 15 for the first) of the entries that share the digits already decided: two
    passes in float32.
    """
    dtype, tasks = stream.dtype, len(stream.tasks)
    integer, width = (torch.int64, 63) if dtype == torch.float64 else (torch.int32, 31)
    prefix, remaining = [0] * tasks, [rank] * tasks
    for shift in range(width // _DIGIT * _DIGIT if rank else -1, -1, -_DIGIT):
        digits, first = 1 << min(_DIGIT, width - shift), shift + _DIGIT > width

        def count(layer: Layer, shift: int = shift, digits: int = digits, first: bool = first) -> Tensor:
            rows: list[list[Tensor]] = [[] for _ in range(tasks)]
            for block in layer.blocks():
                numbers = block.to(dtype).abs().view(integer) >> shift
                if first:
                    numbers = numbers.short()  # half the memory
                for row, found, known in zip(rows, numbers, prefix, strict=True):
                    row.append(found if first else found[found >> _DIGIT == known] & (digits - 1))
            return torch.stack([torch.bincount(torch.cat(row), minlength=digits) for row in rows]).cpu()

        counts = sum(stream.map(count), start=torch.zeros(tasks, digits, dtype=torch.int64))
        for task, cumulative in enumerate(counts.cumsum(1)):
            digit = int(torch.searchsorted(cumulative, remaining[task]))
            remaining[task] -= int(cumulative[digit - 1]) if digit else 0
            prefix[task] = prefix[task] << _DIGIT | digit
    return torch.tensor(prefix, dtype=integer).view(dtype)
