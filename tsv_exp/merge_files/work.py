"""Merges layers one file at a time; shared by all output forms."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from tsv_exp import layers
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError
from tsv_exp.layers import Representation
from tsv_exp.merge_files.inputs import Inputs
from tsv_exp.merge_files.options.options import DTYPES, Options
from tsv_exp.merge_files.options.rules import Bound, Plan
from tsv_exp.merge_files.records.measures import Measured, watch
from tsv_exp.merge_files.records.probes import probe, sample
from tsv_exp.merging.layer import Layer, finite
from tsv_exp.merging.layer_map import map_layers
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.runtime.parallel.threads import check_stopped
from tsv_exp.storage.tensor_files import Kinds

Result = TypeVar("Result")
Advance = Callable[[], object]
Content = tuple[Kinds, Iterable[Tensor]]


@dataclass(frozen=True)
class Work:
    """Everything needed to merge a layer."""

    options: Options
    inputs: Inputs
    plan: Plan
    bound: Bound
    algebra: Algebra
    measured: dict[str, Measured]

    @property
    def stream(self) -> TaskVectors:
        """The task vectors."""
        return self.inputs.stream

    def merged_layers(
        self, finish: Callable[[Layer, Measured], Result], names: Sequence[str], advance: Advance
    ) -> Iterator[Result]:
        """Lazily apply `finish` to every floating-point layer, in order."""
        floating = set(self.stream.names)

        def one(layer: Layer) -> tuple[str, Measured, Result]:
            rule = self.plan.rule(layer.name)
            watched, found = watch(layer, rule.method.name_for(layer), rule.alpha)
            return layer.name, found, finish(watched, found)

        for name, found, result in map_layers(one, self.stream, self.algebra, [n for n in names if n in floating]):
            self.measured[name] = found
            yield result
            advance()

    def merged(self, layer: Layer, found: Measured) -> Representation:
        """The merge of a layer before α."""
        merged = self.bound(layer)
        # For methods that process blocks of entries, products of whole matrices would be too expensive.
        cheap = layer.factors is not None or not getattr(self.plan.rule(layer.name).method.function, "entrywise", False)
        if cheap and layer.name in self.probed and not layers.per_task(merged, layer.shape[1:]):
            found.responses = probe(layer, merged)
        return merged

    def merged_blocks(self, layer: Layer, found: Measured) -> Iterator[tuple[Representation, torch.Size]]:
        """The merge of a layer before α, in blocks of its flattened entries, each with its shape.

        There are several if the layer is large and its entries are merged independently.
        """
        if layer.shape[1:].numel() <= layers.LARGE or not self.plan.rule(layer.name).method.merges_entries(layer):
            yield self.merged(layer, found), layer.shape[1:]
            return
        for block in layer.blocks():
            check_stopped()
            yield self.bound(layer.with_deltas(block)), block.shape[1:]

    @cached_property
    def probed(self) -> frozenset[str]:
        """The matrices used to estimate the data-free α."""
        return sample([name for name in self.stream.names if self.stream.is_matrix(name)])

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a weight is written; buffers keep their dtype."""
        weight, wanted = self.stream.base[name], self.options.dtype
        return DTYPES[wanted] if wanted and weight.is_floating_point() else weight.dtype


def checked(name: str, made: Tensor, base: Tensor | None = None) -> Tensor:
    """Return the layer if all entries are finite, or are equal to non-finite entries of the base; else raise."""
    if made.is_floating_point() and not finite(made) and not (base is not None and _as_infinite(made, base)):
        raise UserError(
            f"tensor {name!r} of the result is too large for {str(made.dtype).removeprefix('torch.')}; "
            "give dtype=bfloat16 or a smaller alpha"
        )
    return made


def _as_infinite(made: Tensor, base: Tensor) -> bool:
    base = base.cpu()
    return bool((made.isfinite() | (base.isinf() & (made == base.to(made.dtype)))).all())
