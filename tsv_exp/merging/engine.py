"""Merging: stream the layers of task vectors through a method, and add the result to the base."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tsv_exp import layers
from tsv_exp.config import Engine
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.decompositions.build import build_algebra, log_fallbacks
from tsv_exp.errors import UserError
from tsv_exp.layers import Representation
from tsv_exp.merging.inputs.checks import check_kind
from tsv_exp.merging.inputs.samples import sampled_from
from tsv_exp.merging.inputs.weights import as_weights
from tsv_exp.merging.layer import Layer, Moments, Weights
from tsv_exp.merging.layer_map import map_layers
from tsv_exp.merging.results.across import Factors, scale_across
from tsv_exp.merging.results.weights import check_alpha, merged_weight, variance_warning
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.storage.digests import digest

log = logging.getLogger(__name__)

Value = TypeVar("Value")


class MergingMethod(Protocol):
    """What the engine needs of a method; `methods.Method` provides it."""

    @property
    def name(self) -> str:
        """The name of its YAML."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Its parameters."""
        ...

    @property
    def across(self) -> Factors | None:
        """The factors of merged matrices of one kind by their norms, or None."""
        ...

    def bind(
        self, stream: TaskVectors, algebra: Algebra, moments: Moments | None = None, /
    ) -> Callable[[Layer], Representation]:
        """The function of one layer, after passes over the whole stream where the method needs them."""
        ...


@dataclass(frozen=True)
class Merged:
    """The merged task vectors, before α.

    Sizes are bytes on disk, with `itemsizes` bytes per number: the base's, or those of the files that were read.
    `stored_bytes` is what must be stored to serve every task: one full model if the tasks share it; else the base with
    the shared layers added to it, plus the layers of each task (low-rank factors, dense deltas, or a shared vector with
    masks of one bit per entry). `stored_bytes_without_base` is what must be stored besides the base. Unchanged layers
    cost nothing. Neither size exceeds T full checkpoints. `samples`: values of the base (inputs/samples.py), where the
    merge was read from a file.
    """

    method: MergingMethod
    tasks: tuple[str, ...]
    layers: Mapping[str, Representation] = field(repr=False)
    shapes: Mapping[str, torch.Size] = field(repr=False)
    itemsizes: Mapping[str, int] = field(repr=False)
    base_bytes: int
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)

    @property
    def params(self) -> Mapping[str, object]:
        """The parameters of the method."""
        return self.method.params

    @property
    def per_task(self) -> bool:
        """Whether there is a model for each task."""
        return any(layers.per_task(layer, self.shapes[name]) for name, layer in self.layers.items())

    def vector(self, task: str | None = None) -> dict[str, Tensor]:
        """The merged task vector of a task (needed where `per_task`), name -> (*shape)."""
        index = self.index(task)
        return {name: layers.delta(layer, self.shapes[name], index) for name, layer in self.layers.items()}

    def digest(self, task: str | None = None) -> str:
        """The digest of a task vector; see `vector`."""
        return digest(self.vector(task))

    def index(self, task: str | None) -> int | None:
        """The position of a task in `tasks`.

        Raises:
            UserError: the task is unknown, or it is None and the method has a model for each task.
        """
        if task is None and not self.per_task:
            return None
        if task not in self.tasks:
            given = "needs a task" if task is None else f"has no task {task!r}"
            raise UserError(f"the merge by {self.method.name} {given}; choose from: {', '.join(self.tasks)}")
        return self.tasks.index(task)

    def renamed(self, names: Mapping[str, str]) -> "Merged":
        """The same merge with some layers under other names: own name -> new name."""

        def new(table: Mapping[str, Value]) -> dict[str, Value]:
            return {names.get(name, name): value for name, value in table.items()}

        return replace(
            self,
            layers=new(self.layers),
            shapes=new(self.shapes),
            itemsizes=new(self.itemsizes),
            samples=new(self.samples),
        )

    def check_base(self, weights: Weights, what: str) -> None:
        """Check that weights, in any floating-point dtype, are those of the base.

        Raises:
            UserError: a tensor is missing, or has another shape or other values; `what` names the weights.
        """
        for name, shape in self.shapes.items():
            if name not in weights or weights[name].shape != shape:
                raise UserError(f"{what} has no tensor {name!r} of shape {tuple(shape)}; give the base of this merge")
            check_kind(weights[name], name, what)
        for name, values in self.samples.items():
            if not sampled_from(weights[name], values):
                raise UserError(
                    f"tensor {name!r} of {what} has other values than in the base of this merge; give that base, not a "
                    "fine-tuned model"
                )

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk that are needed to serve all tasks."""
        return min(self.base_bytes + self._bytes(shared=False), len(self.tasks) * self.base_bytes)

    @property
    def stored_bytes_without_base(self) -> int:
        """Bytes on disk that are needed besides the base."""
        full = sum(shape.numel() * self.itemsizes[name] for name, shape in self.shapes.items())
        return min(self._bytes(shared=True), len(self.tasks) * full)

    def _bytes(self, shared: bool) -> int:
        return sum(
            layers.stored_bytes(layer, self.shapes[name], self.itemsizes[name])
            for name, layer in self.layers.items()
            if shared or layers.per_task(layer, self.shapes[name])
        )


@torch.inference_mode(False)  # threads, which are never in that mode, change tensors that are made here
def merge_layers(stream: TaskVectors, method: MergingMethod, engine: Engine, moments: Moments | None = None) -> Merged:
    """Merge every layer of a stream; holds one layer × T at a time; the result is on the device of the base.

    Raises:
        UserError: a parameter outside its domain, or models that do not fit the base.
    """
    decompositions = build_algebra(engine, stream.compute_device)
    function = method.bind(stream, decompositions, moments)
    base = stream.base

    def merged(layer: Layer) -> Representation:
        return layers.to_device(function(layer), base[layer.name].device)

    found = map_layers(merged, stream.with_progress(f"merging {method.name}"), decompositions)
    by_name = dict(zip(stream.names, found, strict=True))
    if method.across is not None:
        by_name = scale_across(method.across, method.name, by_name, stream)
    return Merged(
        method=method,
        tasks=stream.tasks,
        layers=by_name,
        shapes={name: base[name].shape for name in stream.names},
        itemsizes={name: base[name].element_size() for name in stream.names},
        base_bytes=sum(weight.numel() * weight.element_size() for weight in base.values()),
        fallbacks=log_fallbacks(decompositions),
    )


def apply(base: Weights | nn.Module, merged: Merged, alpha: float = 1.0, task: str | None = None) -> dict[str, Tensor]:
    """The merged weights θ_pre + α · τ, in the base's dtypes; integer buffers are copied from the base.

    Args:
        base: the base weights of the merge.
        merged: the result of `merge`.
        alpha: the scaling of the merged task vector.
        task: the task, if the method has a model for each.

    Raises:
        UserError: α is not finite, the task is unknown or missing, or the base is not that of the merge.
    """
    check_alpha(alpha)
    base = as_weights(base, "the base")
    index = merged.index(task)
    merged.check_base(base, "the base")
    weights, negative = {}, 0
    for name, weight in base.items():
        if name not in merged.layers:
            weights[name] = weight.detach().clone()
            continue
        tau = layers.delta(merged.layers[name], merged.shapes[name], index).to(weight.device)
        result, kept = merged_weight(name, weight, tau, float(alpha))
        weights[name] = result.to(weight.dtype)
        negative += kept
    if negative:
        log.warning(variance_warning(negative))
    return weights
