"""A function of every layer of a stream: in threads, or on a GPU in batches of layers of one shape."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch

from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.decompositions.wrappers.batched import BatchedAlgebra
from tsv_exp.merging.layer import Layer
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.runtime.parallel.threads import BUDGET, prefetch

Result = TypeVar("Result")

_SHARE = (
    8  # a batch takes 1/8 of the free GPU memory: the rest is for the stacked copy, the next batch and the computation
)


def map_layers(
    function: Callable[[Layer], Result], stream: TaskVectors, used: Algebra, names: Sequence[str] | None = None
) -> Iterator[Result]:
    """Apply `function`, which decomposes by `used`, to every layer (or the named ones), in order, several at a time."""
    if not isinstance(used, BatchedAlgebra):
        return stream.map(function, names)
    chosen = stream.names if names is None else names
    return stream.under_progress(_in_batches(function, stream, used, chosen), len(chosen))


def _in_batches(
    function: Callable[[Layer], Result], stream: TaskVectors, used: BatchedAlgebra, names: Sequence[str]
) -> Iterator[Result]:
    found: dict[str, Result] = {}
    left = deque(names)
    for layers in prefetch(_groups(stream, names)):
        made = used.run([partial(function, layer) for layer in layers])
        found |= zip([layer.name for layer in layers], made, strict=True)
        while left and left[0] in found:
            yield found.pop(left.popleft())


def _groups(stream: TaskVectors, names: Sequence[str]) -> Iterator[list[Layer]]:
    """Groups of layers of equal shape; on a GPU the next group is copied during the computation."""
    if stream.compute_device.type != "cuda":
        yield from stream.groups(names, BUDGET)
        return
    copying = torch.cuda.Stream(stream.compute_device)  # one: memory is kept for the stream that it was taken in
    groups = stream.groups(names, torch.cuda.mem_get_info(stream.compute_device)[0] // _SHARE)
    while (layers := _next(groups, copying)) is not None:
        yield layers


def _next(groups: Iterator[list[Layer]], copying: torch.cuda.Stream) -> list[Layer] | None:
    with torch.cuda.stream(copying):
        layers = next(groups, None)
    copying.synchronize()
    for layer in layers or ():
        for tensor in layer.tensors():  # its memory must not be reused before the computations on it end
            tensor.record_stream(torch.cuda.default_stream(copying.device))
    return layers
