"""Exact order statistics of a stream that is too large to sort or copy."""

import math
from threading import Lock

import torch
from torch import Tensor

from tsv_exp.merging.layer import Layer
from tsv_exp.merging.task_vectors import TaskVectors

_SAMPLE = 1 << 20  # entries of each task in the sample of the first guess
_BINS = 1 << 18
_FLOATS = {torch.int32: torch.float32, torch.int64: torch.float64}


def kth_magnitudes(stream: TaskVectors, rank: int) -> Tensor:
    """The rank-th smallest magnitude (from 1) of each task's flattened task vector; rank 0 gives 0.

    The bits of non-negative floats, read as integers, have the order of the floats. A sample gives two integers that
    should enclose the result. A pass counts the entries below them, and those between them in bins. If the guess was
    wrong, or a bin holds more than one integer, another pass follows.
    """
    tasks = len(stream.tasks)
    if not rank:
        return torch.zeros(tasks, dtype=stream.dtype)
    integer = torch.int64 if stream.dtype == torch.float64 else torch.int32
    end = int(_bits(torch.tensor(math.inf), integer))
    brackets, found = _guesses(stream, rank, integer, end), [False] * tasks
    while not all(found):
        widest = max(high - low for low, high in brackets)
        shift = max(0, (widest - 1).bit_length() - (_BINS - 1).bit_length())
        for task, cumulative in enumerate(_counts(stream, brackets, shift, integer).cumsum(1)):
            low, high = brackets[task]
            place = int(torch.searchsorted(cumulative, rank)) - 1
            if place < 0:
                brackets[task] = (0, low)
            elif place < _BINS:
                first = low + (place << shift)
                brackets[task], found[task] = (first, min(high, first + (1 << shift))), shift == 0
            else:
                brackets[task] = (high, end)
    return torch.tensor([low for low, _ in brackets], dtype=integer).view(stream.dtype)


def _guesses(stream: TaskVectors, rank: int, integer: torch.dtype, end: int) -> list[tuple[int, int]]:
    """For each task, a range of integers [low, high) that should contain the one at `rank`, estimated from a sample."""
    stride = math.ceil(stream.size / _SAMPLE)
    while math.gcd(stride, 2 * 3 * 5 * 7 * 11 * 13) > 1:  # else it would miss columns of a matrix
        stride += 1
    layers = stream.with_progress(None).map(
        lambda layer: [_bits(block, integer).cpu() for block in layer.blocks(stride)]
    )
    sample = torch.cat([run for layer in layers for run in layer], 1)
    count = sample.shape[1]
    place, doubt = round(rank / stream.size * count), math.ceil(2.5 * count**0.5)  # five standard deviations or more
    lows = sample.kthvalue(place - doubt).values.tolist() if place > doubt else [0] * len(sample)
    lasts = sample.kthvalue(place + doubt).values.tolist() if place + doubt <= count else [end - 1] * len(sample)
    return [(low, last + 1) for low, last in zip(lows, lasts, strict=True)]


def _counts(stream: TaskVectors, brackets: list[tuple[int, int]], shift: int, integer: torch.dtype) -> Tensor:
    """How many entries of each task are below its bracket, then in each bin of 2^shift integers: (T, 1 + bins)."""
    lows, highs = torch.tensor(brackets, dtype=integer, device=stream.compute_device).T.unsqueeze(2)
    counts = torch.zeros(len(brackets), 1 + _BINS, dtype=torch.int64, device=stream.compute_device)
    flat, one, lock = counts.view(-1), counts.new_ones(()), Lock()

    def count(layer: Layer) -> None:
        for block in layer.blocks():
            numbers = _bits(block, integer)
            beyond = _at_least(numbers, lows)
            below = numbers.shape[1] - beyond.sum(1, dtype=torch.int32)
            inside = _true(beyond.logical_xor_(_at_least(numbers, highs)))
            task = inside // numbers.shape[1]
            places = (numbers.view(-1)[inside] - lows.view(-1)[task] >> shift) + (task * counts.shape[1] + 1)
            with lock:  # layers are counted by several threads
                counts[:, 0] += below
                flat.index_add_(0, places, one.expand(len(places)))

    for _ in stream.map(count):
        pass
    return counts.cpu()


def _bits(values: Tensor, integer: torch.dtype) -> Tensor:
    """Magnitudes as integers in the same order."""
    return values.to(_FLOATS[integer]).abs().view(integer)


def _at_least(numbers: Tensor, limits: Tensor) -> Tensor:
    """numbers ≥ limits; by numpy on a CPU, which is several times faster."""
    if numbers.device.type == "cpu":
        return torch.from_numpy(numbers.numpy() >= limits.numpy())
    return numbers >= limits


def _true(mask: Tensor) -> Tensor:
    """The flat indices where a mask is true; by numpy on a CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(mask.numpy().ravel().nonzero()[0])
    return mask.view(-1).nonzero().squeeze(1)
