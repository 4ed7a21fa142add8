"""Measures of a layer collected during the merge: norms of task vectors and of their merge."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import Matrices
from tsv_exp.decompositions.numerics import parts as parts_of
from tsv_exp.layers import LowRank
from tsv_exp.merging.layer import Layer
from tsv_exp.storage.files import atomic, clear_partial_files

_SAMPLE = 1024  # entries per block used to distinguish two task vectors of equal norm


@dataclass
class Measured:
    """Measures of one layer: its method and α, and squared norms of its deltas and of its merge before α.

    `marks` are sums of some entries of each delta: two equal deltas have equal squares and marks. `lost` is the part of
    `merged` that an adapter of smaller rank loses. `by_task`: tasks have merges of their own, which are not measured.
    `responses` are those of probes.py, for a few matrices. `kept_entries` keep the base's values, because the merge is
    not finite there. `stack`: a parameter that is a stack of matrices.
    """

    method: str
    alpha: float
    matrix: bool
    entries: int
    squares: list[float]
    marks: list[float]
    merged: float = 0.0
    lost: float = 0.0
    rank: int = 0
    by_task: bool = False
    responses: list[float] | None = None
    kept_entries: int = 0
    stack: bool = False


def watch(layer: Layer, method: str, alpha: float) -> tuple[Layer, Measured]:
    """The layer, and its measures, which are filled in when its deltas are used."""
    tasks = layer.shape[0]
    entries = layer.shape[1:].numel()
    zeros, stack = [0.0] * tasks, layer.slices is not None
    found = Measured(method, alpha, layer.matrix, entries, zeros, list(zeros), stack=stack)
    if layer.factors is not None:
        for task, factors in enumerate(layer.factors):
            found.squares[task], found.marks[task] = _of_product(factors)
        return replace(layer, form=lambda: layer.deltas), found

    def whole() -> Tensor:
        deltas = layer.deltas
        found.squares, found.marks = (values.tolist() for values in _of_rows(deltas.reshape(tasks, entries)))
        return deltas

    def one(give: Callable[[int], Matrices], task: int) -> Matrices:
        delta = give(task)
        measures = [torch.cat(_of_rows(part.reshape(1, part.numel()))) for part in parts_of(delta)]
        found.squares[task], found.marks[task] = torch.stack(measures).sum(0).tolist()
        return delta

    def parts(give: Callable[[int], Iterator[Tensor]], stride: int) -> Iterator[Tensor]:
        total = torch.zeros(2, tasks, dtype=torch.float64)
        for block in give(stride):
            total += torch.stack(_of_rows(block))
            yield block
        if stride == 1:
            found.squares, found.marks = total.tolist()

    def matrices(give: Callable[[], Iterator[Layer]]) -> Iterator[Layer]:
        total = torch.zeros(2, tasks, dtype=torch.float64)
        for matrix in give():
            watched, its = watch(matrix, method, alpha)
            yield watched
            total += torch.tensor([its.squares, its.marks], dtype=torch.float64)
        found.squares, found.marks = total.tolist()

    blocks, single, slices = layer.parts, layer.one, layer.slices
    return (
        replace(
            layer,
            form=whole,
            parts=blocks and (lambda stride: parts(blocks, stride)),
            one=single and (lambda task: one(single, task)),
            slices=slices and (lambda: matrices(slices)),
        ),
        found,
    )


def square(values: Tensor) -> float:
    """The sum of the squares of a tensor's entries."""
    return float(torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))) ** 2


def _of_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    squares = torch.stack([torch.dot(row, row) for row in rows]).to(
        "cpu", torch.float64
    )  # BLAS, without a temporary tensor
    return squares, rows[:, :_SAMPLE].sum(1).to("cpu", torch.float64)


def _of_product(factors: LowRank) -> tuple[float, float]:
    u, vh = (factors.u * factors.s).double(), factors.vh.double()
    return float(((u.mT @ u) * (vh @ vh.mT)).sum()), float(u.sum(0) @ vh.sum(1))


class Record:
    """The measures of all layers, stored per file in `folder`, so that a resumed merge has them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, file: Path, measured: dict[str, Measured]) -> None:
        """Store the measures of a file, or of a part of one, and clear `measured`."""
        with atomic(self._folder / f"{file.stem}.layers.json") as path:
            path.write_text(json.dumps({name: asdict(found) for name, found in measured.items()}))
        measured.clear()

    def load(self) -> dict[str, Measured]:
        """All stored measures, by layer."""
        clear_partial_files(self._folder, "*.layers.json")
        found: dict[str, Any] = {}
        for path in sorted(self._folder.glob("*.layers.json")):
            found |= json.loads(path.read_text())
        return {name: Measured(**values) for name, values in found.items()}
