"""Representations of one layer of a merged model: dense, low-rank or masked, shared by all tasks or one per task."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

BITS = 8
LARGE = 1 << 28  # entries (1 GB in float32) from which a layer is not held as a whole in the dtype of its deltas
ROW_BYTES = 4  # of a row index
_BLOCK = 1 << 22  # entries
_CONVERTED = 1 << 18


class LowRank(NamedTuple):
    """u · diag(s) · vh with u (..., m, k), s (..., k), vh (..., k, n); components with s = 0 are ignored."""

    u: Tensor
    s: Tensor
    vh: Tensor

    def dense(self) -> Tensor:
        """The product (..., m, n)."""
        return (self.u * self.s.unsqueeze(-2)) @ self.vh

    @property
    def transposed(self) -> "LowRank":
        """The factors of the transposed product."""
        return LowRank(self.vh.mT, self.s, self.u.mT)


class Masked(NamedTuple):
    """One vector (*shape) for all tasks, with a boolean mask (T, *shape) and optionally a factor (T,) per task."""

    vector: Tensor
    masks: Tensor
    scales: Tensor | None = None


# A plain tensor is (*shape) if all tasks share it, (T, *shape) if there is one per task.
Representation: TypeAlias = Tensor | LowRank | Masked


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which weight deltas are computed: float32, or the dtype of the weights if that is wider."""
    return torch.float32 if dtype.itemsize < 4 else torch.promote_types(dtype, torch.float32)


def per_task(layer: Representation, shape: torch.Size) -> bool:
    """Whether a layer of this shape differs between tasks."""
    if isinstance(layer, Masked):
        return True
    return (layer.u if isinstance(layer, LowRank) else layer).dim() > len(shape)


def join_blocks(runs: Iterable[Representation], shape: torch.Size) -> Representation:
    """The layer of this shape from blocks of its flattened entries: (b,), (T, b) or masked."""
    joined: list[Tensor] = []
    scales, start = None, 0
    for run in runs:
        assert not isinstance(run, LowRank)
        tensors = (run,) if isinstance(run, Tensor) else (run.vector, run.masks)
        scales = run.scales if isinstance(run, Masked) else None
        joined = joined or [tensor.new_empty((*tensor.shape[:-1], shape.numel())) for tensor in tensors]
        for whole, tensor in zip(joined, tensors, strict=True):
            whole[..., start : start + tensor.shape[-1]] = tensor
        start += tensors[0].shape[-1]
    layer = [whole.view((*whole.shape[:-1], *shape)) for whole in joined]
    return Masked(layer[0], layer[1], scales) if len(layer) > 1 else layer[0]


def stack(parts: Sequence[Representation]) -> Representation:
    """The layer (E, m, n) of E matrices."""

    def joined(tensors: Sequence[Tensor], own: int) -> Tensor:
        return torch.stack(list(tensors), tensors[0].dim() - own)

    if isinstance(first := parts[0], Masked):
        masked = [part for part in parts if isinstance(part, Masked)]
        return Masked(joined([p.vector for p in masked], 2), joined([p.masks for p in masked], 2), first.scales)
    if isinstance(first, LowRank):
        factors = [part for part in parts if isinstance(part, LowRank)]
        rank = max(part.s.shape[-1] for part in factors)
        padded = []
        for u, s, vh in factors:
            more = rank - s.shape[-1]
            padded.append(LowRank(pad(u, (0, more)), pad(s, (0, more)), pad(vh, (0, 0, 0, more))))
        return LowRank(*(joined([part[i] for part in padded], own) for i, own in enumerate((2, 1, 2))))
    return joined([part for part in parts if isinstance(part, Tensor)], 2)


def to_device(layer: Representation, device: torch.device) -> Representation:
    """The layer on another device."""
    if isinstance(layer, Tensor):
        return layer.to(device)
    return layer._replace(**{name: part.to(device) for name, part in layer._asdict().items() if part is not None})


def scaled(layer: Representation, factor: float) -> Representation:
    """The layer times a number."""
    if isinstance(layer, LowRank):
        return layer._replace(s=layer.s * factor)
    return layer._replace(vector=layer.vector * factor) if isinstance(layer, Masked) else layer * factor


def delta(layer: Representation, shape: torch.Size, task: int | None = None) -> Tensor:
    """The merged task matrix (*shape) of a task (an index), or of a shared layer."""
    if isinstance(layer, Masked):
        assert task is not None
        masked = layer.vector * layer.masks[task]
        return masked if layer.scales is None else masked * layer.scales[task].to(masked)
    if isinstance(layer, LowRank):
        return (LowRank(*(factor[task] for factor in layer)) if per_task(layer, shape) else layer).dense()
    return layer[task] if per_task(layer, shape) else layer


def row_blocks(tensors: Sequence[Tensor], shape: torch.Size, converted: bool = False) -> Iterable[Sequence[Tensor]]:
    """Tensors in the same blocks of rows, as many as have about 4 million entries in a layer of this shape.

    Blocks whose entries are converted to another dtype are smaller: large temporary copies fragment the memory.
    """
    if not shape:
        return [tensors]
    entries = min(_BLOCK, _CONVERTED) if converted else _BLOCK
    rows = max(1, entries * shape[0] // max(1, shape.numel()))
    if rows >= shape[0]:  # splitting would take longer than a small layer
        return [tensors]
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def delta_blocks(layer: Representation, shape: torch.Size, task: int | None = None) -> Iterator[Tensor]:
    """The same blocks of `delta`; of a shared product no more is in memory at a time."""
    if isinstance(layer, LowRank) and not per_task(layer, shape):
        yield from (LowRank(rows, layer.s, layer.vh).dense() for (rows,) in row_blocks((layer.u,), shape))
    else:
        yield from (rows for (rows,) in row_blocks((delta(layer, shape, task),), shape))


def stored_bytes(layer: Representation, shape: torch.Size, itemsize: int) -> int:
    """The bytes that a layer takes on disk with `itemsize` bytes per number.

    Entries that are all zero cost nothing, nor do rows of a matrix that are zero (`changed_rows`). A mask costs one bit
    per entry (its factor is one number for the whole model and not counted), low-rank factors cost their non-zero
    components, and never more than the dense matrix.
    """
    dense = shape.numel() * itemsize
    if isinstance(layer, Masked):
        return dense + len(layer.masks) * -(-shape.numel() // BITS) if _changes(layer.vector) else 0
    if isinstance(layer, LowRank):
        m, n = shape[-2:]
        ranks = (layer.s != 0).sum(-1).reshape(-1).tolist()
        return sum(min(rank * (m + n + 1), m * n) * itemsize for rank in ranks)
    tensors = layer if per_task(layer, shape) else (layer,)
    return sum(_dense_bytes(tensor, itemsize) for tensor in tensors if _changes(tensor))


def changed_rows(tensor: Tensor, itemsize: int) -> Tensor | None:
    """Indices (R,), int32, of the nonzero rows of a matrix; None if storing all entries takes less space.

    Fine-tuning changes only those rows of an embedding whose tokens occur in the training data.
    """
    if tensor.dim() != 2 or not tensor.numel():
        return None
    rows = tensor.any(-1).nonzero().flatten()
    m, n = tensor.shape
    return rows.int() if len(rows) * (n * itemsize + ROW_BYTES) < m * n * itemsize else None


def _dense_bytes(tensor: Tensor, itemsize: int) -> int:
    rows = changed_rows(tensor, itemsize)
    if rows is None:
        return tensor.numel() * itemsize
    return len(rows) * (tensor.shape[1] * itemsize + ROW_BYTES)


def _changes(tensor: Tensor) -> bool:
    """Whether any entry is nonzero; for an expanded tensor only its single entry is read."""
    repeated = tensor.numel() > 0 and not any(tensor.stride())
    return bool((tensor[(0,) * tensor.dim()] if repeated else tensor).any())
