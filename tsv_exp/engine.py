"""Merging: stream the layers of task vectors through a method, and add the result to the base."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from tsv_exp import files, layers, linalg
from tsv_exp.config import Engine
from tsv_exp.errors import UserError
from tsv_exp.factors import Cached, Store
from tsv_exp.fast import Certified
from tsv_exp.gathered import Gathered
from tsv_exp.layers import Representation
from tsv_exp.method import Method
from tsv_exp.task_vectors import Layer, TaskVectors, Weights

log = logging.getLogger(__name__)

Result = TypeVar("Result")
CPU = torch.device("cpu")

ALGEBRAS: dict[str, type[linalg.Algebra]] = {"auto": Certified, "exact": linalg.Exact}


@dataclass(frozen=True)
class Merged:
    """The merged task vectors, before α.

    Sizes count what is written to disk, with `itemsizes` bytes per number: the base's, or those of the files it was
    read from. `stored_bytes` serves all tasks: one full model where they share it; else the base with the shared layers
    folded in, plus the layers kept per task (low-rank factors, dense deltas, a shared vector with masks at one bit per
    entry). `stored_bytes_without_base` is what must be added where the base is there already. Unchanged layers cost
    nothing, and neither exceeds T full checkpoints.
    """

    method: Method
    tasks: tuple[str, ...]
    layers: Mapping[str, Representation]
    shapes: Mapping[str, torch.Size]
    itemsizes: Mapping[str, int]
    base_bytes: int

    @property
    def params(self) -> Mapping[str, object]:
        """The parameters of the method."""
        return self.method.params

    @property
    def per_task(self) -> bool:
        """Whether every task has a model of its own."""
        return any(layers.per_task(layer, self.shapes[name]) for name, layer in self.layers.items())

    def vector(self, task: str | None = None) -> dict[str, Tensor]:
        """The merged task vector of a task (needed where `per_task`), name -> (*shape)."""
        index = self.index(task)
        return {name: layers.delta(layer, self.shapes[name], index) for name, layer in self.layers.items()}

    def index(self, task: str | None) -> int | None:
        """The position of a task in `tasks`.

        Raises:
            UserError: it is not one of them, or none is given where the method has a model for each.
        """
        if task is None and not self.per_task:
            return None
        if task not in self.tasks:
            given = "needs a task" if task is None else f"has no task {task!r}"
            raise UserError(f"the merge by {self.method.name} {given}; choose from: {', '.join(self.tasks)}")
        return self.tasks.index(task)

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk that serve all tasks."""
        return min(self.base_bytes + self._bytes(shared=False), len(self.tasks) * self.base_bytes)

    @property
    def stored_bytes_without_base(self) -> int:
        """Bytes on disk beside a base that is there already."""
        full = sum(shape.numel() * self.itemsizes[name] for name, shape in self.shapes.items())
        return min(self._bytes(shared=True), len(self.tasks) * full)

    def _bytes(self, shared: bool) -> int:
        return sum(
            layers.stored_bytes(layer, self.shapes[name], self.itemsizes[name])
            for name, layer in self.layers.items()
            if shared or layers.per_task(layer, self.shapes[name])
        )


def merge(
    base: Weights,
    finetuned: Mapping[str, Weights],
    method: str | Method = "tsv_m",
    *,
    engine: Engine | None = None,
    device: torch.device | str | None = None,
    **params: object,
) -> Merged:
    """Merge fine-tuned models of one base; holds one layer × T at a time beside the result, and changes no input.

    Args:
        base: the pre-trained weights, name -> tensor of any shape; integer buffers take no part.
        finetuned: the fine-tuned weights by task.
        method: a name in conf/method, or a Method.
        engine: how decompositions are computed, and which 2-D layers are not matrices.
        device: where to compute; None is where the base lies. The result lies where the base does.
        params: override parameters of the method's YAML, such as rank_fraction, density, lambda_.

    Raises:
        UserError: unknown method or parameter, a parameter outside its domain, models that don't fit the base.
    """
    engine = engine or Engine()
    chosen = (method if isinstance(method, Method) else Method.load(method)).with_params(**params)
    stream = TaskVectors(base, finetuned, tuple(engine.exclude), device)
    decompositions = algebra(engine, stream.place)
    function = chosen.bind(stream, decompositions)

    def merged(layer: Layer) -> Representation:
        return layers.moved(function(layer), base[layer.name].device)

    found = over_layers(merged, stream.watched(f"merging {chosen.name}"), decompositions)
    held = dict(zip(stream.names, found, strict=True))
    report(decompositions)
    return Merged(
        method=chosen,
        tasks=stream.tasks,
        layers=held,
        shapes={name: base[name].shape for name in stream.names},
        itemsizes={name: base[name].element_size() for name in stream.names},
        base_bytes=sum(weight.numel() * weight.element_size() for weight in base.values()),
    )


def algebra(engine: Engine, place: torch.device = CPU) -> linalg.Algebra:
    """The decompositions that `engine.svd` names; on a graphics card those of several layers at once."""
    computed, store = ALGEBRAS[engine.svd](), PLACES[engine.cache]()
    kept = computed if store is None else Cached(computed, engine.svd, store)
    return Gathered(kept) if place.type == "cuda" else kept


def over_layers(
    function: Callable[[Layer], Result], stream: TaskVectors, used: linalg.Algebra, names: Sequence[str] | None = None
) -> Iterator[Result]:
    """`function`, which decomposes by `used`, of every layer (or the named ones), in order, several at a time."""
    return used.map(function, stream, names) if isinstance(used, Gathered) else stream.map(function, names)


def report(used: linalg.Algebra) -> None:
    """Log how many decompositions could not be certified and were computed exactly."""
    while isinstance(used, (Gathered, Cached)):
        used = used.algebra
    if isinstance(used, Certified) and used.fallbacks:
        log.info("%d of %d decompositions were computed exactly", used.fallbacks, used.total)


@cache
def _memory() -> Store:
    """What this process keeps."""
    return Store()


def _disk() -> Store:
    return _on_disk(files.cache_dir() / "factors")


@cache
def _on_disk(folder: Path) -> Store:
    return Store(folder)


PLACES: dict[str, Callable[[], Store | None]] = {"off": lambda: None, "memory": _memory, "disk": _disk}


def apply(base: Weights, merged: Merged, alpha: float = 1.0, task: str | None = None) -> dict[str, Tensor]:
    """The merged weights θ_pre + α · τ, in the base's dtypes; integer buffers are the base's.

    Args:
        base: the weights that `merged` was made on.
        merged: the result of `merge`.
        alpha: the scaling of the merged task vector.
        task: whose model, where the method has one per task.

    Raises:
        UserError: α is not finite, the task is unknown or missing, or the base is another architecture.
    """
    if not math.isfinite(alpha):
        raise UserError(f"alpha={alpha}: it must be a finite number")
    index = merged.index(task)
    for name, shape in merged.shapes.items():
        if name not in base or base[name].shape != shape:
            raise UserError(f"the base has no tensor {name!r} of shape {tuple(shape)}; give the base of this merge")
    weights = {}
    for name, weight in base.items():
        weights[name] = weight.detach().clone()
        if name in merged.layers:
            tau = layers.delta(merged.layers[name], merged.shapes[name], index)
            weights[name] = torch.add(weight.detach().to(tau.dtype), tau.to(weight.device), alpha=alpha).to(
                weight.dtype
            )
    return weights
