"""Task vectors τ_i = θ_ft_i − θ_pre (arXiv 2212.04089), one layer of all tasks at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from functools import cached_property, partial, reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsv_exp import layers
from tsv_exp.config import Engine
from tsv_exp.decompositions.numerics import Matrices, Rows
from tsv_exp.layers import LowRank, compute_dtype
from tsv_exp.merging.inputs.alignment import align, matches
from tsv_exp.merging.inputs.checks import check_models, raise_nonfinite
from tsv_exp.merging.inputs.views import Sliced
from tsv_exp.merging.inputs.weights import as_models, as_weights
from tsv_exp.merging.layer import ExplicitDeltas, Layer, Weights, _run, differences, finite, without_masks
from tsv_exp.runtime.console import track
from tsv_exp.runtime.parallel.threads import map_in_threads

Result = TypeVar("Result")


@dataclass(frozen=True)
class TaskVectors:
    """A re-iterable stream of layers; holds one layer × T at a time, so base and models may be lazy readers.

    Integer and boolean buffers are not part of it. Half-precision weights give float32 deltas.

    Args:
        base: the pre-trained weights θ_pre.
        finetuned: the fine-tuned weights θ_ft_i by task, with the shapes of `base`.
        exclude: patterns of 2-D parameters that are not matrices in the sense of the methods.
        device: where deltas are computed; None keeps each on the device of its base weight.
        description: of the progress bar; None shows none.
        keep: patterns of parameters that stay the base's; models need not have them.
        stacks: patterns of 3-D parameters (E, m, n) that are E matrices, as the experts of a layer.
        only: the floating-point parameters that take part; None are all.

    Raises:
        UserError: no model, or a parameter that is missing, unknown, of another shape or of a kind that cannot be
            merged in one of them; and, on reaching a layer, a value that is NaN or infinite.
    """

    base: Weights
    finetuned: Mapping[str, Weights]
    exclude: Sequence[str] = ("*text_projection*",)
    device: torch.device | str | None = None
    description: str | None = None
    keep: Sequence[str] = ()
    stacks: Sequence[str] = ()
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_models(self.base, self.finetuned, self.names, self.keep)

    @classmethod
    def of(
        cls, base: object, finetuned: Mapping[str, object], engine: Engine, device: torch.device | str | None = None
    ) -> "TaskVectors":
        """The stream of models of one base: state dicts, modules or readers. Names are aligned as `engine` says.

        Raises:
            UserError: they do not fit, as above.
        """
        weights = as_weights(base, "the base")
        aligned = {}
        for task, model in as_models(finetuned).items():
            what = f"model {task!r}"
            aligned[task] = align(weights, as_weights(model, what), engine.keep, engine.ignore, what)
        return cls(weights, aligned, engine.excluded, device, None, tuple(engine.keep), tuple(engine.stacks))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The floating-point parameters that are merged, in the order of the base."""
        return self.only or tuple(
            name for name, weight in self.base.items() if weight.is_floating_point() and not matches(name, self.keep)
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks in the order of the deltas' first axis."""
        return tuple(self.finetuned)

    @cached_property
    def compute_device(self) -> torch.device:
        """Where deltas are computed."""
        return torch.device(self.device or next(iter(self.base.values())).device)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The widest dtype of the deltas."""
        return reduce(torch.promote_types, (compute_dtype(self.base[name].dtype) for name in self.names), torch.float32)

    @cached_property
    def size(self) -> int:
        """The number of floating-point entries of one flattened task vector."""
        return sum(self.base[name].numel() for name in self.names)

    @property
    def adapters_only(self) -> bool:
        """Whether the models are adapters, whose task matrices are products of thin factors."""
        return len(self._adapters) == len(self.finetuned)

    def fields(self) -> dict[str, Any]:
        """The arguments for a stream with other deltas of the same models, without a progress bar."""
        return {field.name: getattr(self, field.name) for field in fields(TaskVectors)} | {"description": None}

    def with_progress(self, description: str | None) -> "TaskVectors":
        """The same stream, not checked again, with a progress bar."""
        other = copy(self)
        object.__setattr__(other, "description", description)
        return other

    def is_matrix(self, name: str) -> bool:
        """Whether a parameter is 2-D and its name matches none of the excluded patterns."""
        return self.base[name].dim() == 2 and not matches(name, self.exclude)

    def is_stack(self, name: str) -> bool:
        """Whether a parameter (E, m, n) is E matrices."""
        return self.base[name].dim() == 3 and matches(name, self.stacks) and not matches(name, self.exclude)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Layer]:
        return map(self.layer, self.names)

    def map(self, function: Callable[[Layer], Result], names: Sequence[str] | None = None) -> Iterator[Result]:
        """Apply `function` to every layer (or the named ones), in order, several layers at a time."""
        chosen = self.names if names is None else names
        results = map_in_threads(lambda name: function(self.layer(name)), chosen, self._bytes)
        return self.under_progress(results, len(chosen))

    def under_progress(self, results: Iterator[Result], count: int) -> Iterator[Result]:
        """The results of `count` layers, with the stream's progress bar."""
        return results if self.description is None else track(results, self.description, count)

    def groups(self, names: Sequence[str], budget: int) -> Iterator[list[Layer]]:
        """Groups of the named layers with their deltas: layers of equal shape, up to `budget` bytes."""
        shapes: dict[torch.Size, list[str]] = {}
        for name in names:
            shapes.setdefault(self.base[name].shape, []).append(name)
        for alike in shapes.values():
            size = max(1, budget // max(1, self._bytes(alike[0])))
            for start in range(0, len(alike), size):
                yield [self._loaded(name) for name in alike[start : start + size]]

    def _loaded(self, name: str) -> Layer:
        layer = self.layer(name)
        layer.tensors()
        return layer

    def _bytes(self, name: str) -> int:
        # The deltas, and about as much again for temporary results.
        weight = self.base[name]
        entries = weight[0].numel() if self.is_stack(name) and len(weight) else weight.numel()
        return 2 * len(self.finetuned) * entries * self.dtype.itemsize

    def layer(self, name: str) -> Layer:
        """One layer. Its deltas are new tensors; the weights are not changed."""
        weight = self.base[name]
        shape, matrix = torch.Size((len(self.finetuned), *weight.shape)), self.is_matrix(name)
        on_cpu = self.compute_device.type == "cpu"
        return Layer(
            name,
            shape,
            matrix,
            lambda: self._deltas(name),
            (lambda stride: self._blocks(name, stride)) if on_cpu else None,
            (lambda task: self._delta(name, self.tasks[task])) if on_cpu and not self._adapters else None,
            self._factors(name) if matrix and self.adapters_only else None,
            (lambda: self._slices(name)) if self.is_stack(name) else None,
            lambda: True in [model.inputs_first(name) for model in self._adapters.values()],
        )

    def _slices(self, name: str) -> Iterator[Layer]:
        for index in range(len(self.base[name])):
            one = copy(self)
            adapters = {task: model.sliced(name, index) for task, model in self._adapters.items()}
            models = {
                task: adapters[task] if task in adapters else Sliced(model, name, index)
                for task, model in self.finetuned.items()
            }
            one.__dict__.update(base=Sliced(self.base, name, index), finetuned=models, _adapters=adapters)
            yield one.layer(name)

    @cached_property
    def _adapters(self) -> dict[str, ExplicitDeltas]:
        return {task: model for task, model in self.finetuned.items() if isinstance(model, ExplicitDeltas)}

    def _deltas(self, name: str) -> Tensor:
        return self._between(name, self.base[name], self._ends(name), self._known(name))

    def _ends(self, name: str) -> list[Tensor]:
        """The fine-tuned weights; the base's in place of an adapter's, which knows its deltas more precisely."""
        return [(self.base if task in self._adapters else model)[name] for task, model in self.finetuned.items()]

    def _known(self, name: str) -> dict[int, Tensor]:
        """The deltas of the adapters that change a parameter, by their index."""
        dtype = compute_dtype(self.base[name].dtype)
        found = ((self.tasks.index(task), model.delta(name, dtype)) for task, model in self._adapters.items())
        return {index: delta for index, delta in found if delta is not None}

    def _between(self, name: str, start: Tensor, ends: Sequence[Tensor], known: Mapping[int, Tensor]) -> Tensor:
        deltas = self._minus(name, start, ends)
        for index, delta in known.items():
            deltas[index].copy_(delta)
        if known and not finite(start):
            raise_nonfinite(self.base, self.finetuned, name)
        return self._finite(name, deltas) if known else deltas

    def _delta(self, name: str, task: str) -> Matrices:
        weight, end, minus = self.base[name], self.finetuned[task][name], partial(self._minus, name)
        if weight.numel() <= layers.LARGE:
            return minus(weight, [end])

        def blocks(start: Tensor, end: Tensor) -> Callable[[int], Iterator[Tensor]]:
            return lambda rows: map(minus, start.split(rows), zip(end.split(rows)))

        shape, dtype = torch.Size((1, *weight.shape)), compute_dtype(weight.dtype)
        return Rows(shape, dtype, self.compute_device, blocks(weight, end), blocks(weight.mT, end.mT))

    def _blocks(self, name: str, stride: int) -> Iterator[Tensor]:
        known, tasks = self._known(name), len(self.finetuned)
        tensors = self.base[name], *self._ends(name), *known.values()
        runs = (tensor.detach().reshape(-1)[::stride].split(_run(tasks)) for tensor in tensors)
        for start, *others in zip(*runs, strict=True):
            yield self._between(name, start, others[:tasks], dict(zip(known, others[tasks:], strict=True)))

    def _minus(self, name: str, start: Tensor, ends: Sequence[Tensor]) -> Tensor:
        deltas = differences(start, ends, self.device)
        return deltas if finite(deltas) else self._finite(name, without_masks(deltas, start, ends))

    def _finite(self, name: str, deltas: Tensor) -> Tensor:
        if not finite(deltas):
            raise_nonfinite(self.base, self.finetuned, name)
        return deltas

    def _factors(self, name: str) -> tuple[LowRank, ...]:
        weight = self.base[name]
        dtype = compute_dtype(weight.dtype)
        found = [model.factors(name, dtype) for model in self._adapters.values()]
        sound = finite(weight) or not (weight.isnan().any() or any(len(factors.s) for factors in found))
        if not sound or not all(finite(part) for factors in found for part in factors):
            raise_nonfinite(self.base, self.finetuned, name)
        return tuple(LowRank(*(part.to(self.device or weight.device) for part in factors)) for factors in found)
