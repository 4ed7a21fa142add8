"""A folder of tsv-merge with a model per task and a router, as one object that answers inputs of any of the tasks."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tsv_exp.checkpoints.loaded_names import names_in_module
from tsv_exp.checkpoints.store import load_merged
from tsv_exp.errors import UserError
from tsv_exp.merging.engine import Merged, apply
from tsv_exp.routing.router import FittedRouter
from tsv_exp.routing.serving.files import read_router
from tsv_exp.routing.tokens import PROBES, padding_mask
from tsv_exp.runtime.devices import map_tensors

Head = Callable[[Tensor], Tensor]


class Routes(NamedTuple):
    """The name of the task of each of B inputs, and the scores (B, T), float32, by which it was chosen."""

    tasks: list[str]
    scores: Tensor


class Prediction(NamedTuple):
    """The name of each input's task, and the output of that task's model, through its head if it has one."""

    tasks: list[str]
    outputs: list[Tensor]


class ServedModel:
    """Models of several tasks and a router that chooses among them; created by `load`.

    Several threads may use it: one works at a time, because all share one working copy of the module.
    """

    def __init__(
        self,
        module: nn.Module,
        merged: Merged,
        fitted: FittedRouter,
        heads: Mapping[str, Head],
        features: Callable[[Any], Tensor],
    ) -> None:
        self._base = module.eval()
        self._fitted = fitted
        self._heads = heads
        self._features = features
        self._loaded: tuple[str, nn.Module] | None = None
        own = module.state_dict()
        merged.check_base(own, "the module")
        self._merged = replace(merged, samples={})  # values are compared once, not whenever a model is loaded
        self._state = {name: own[name] for name in merged.shapes}
        self._alone = RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_alone"}  # locks cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _alone=RLock())

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the scores."""
        return self._fitted.tasks

    def route(self, inputs: Any, together: bool = False) -> Routes:
        """The task of every input, by one pass of the base model.

        Args:
            inputs: inputs of the module: a tensor of B inputs, or a mapping of keyword arguments with B rows. An entry
                `attention_mask` (B, L) marks padding tokens.
            together: whether all inputs belong to one task, which is then chosen by the sum of their scores.

        Raises:
            UserError: the inputs are something else.
        """
        with self._alone:
            return self._route(inputs, together)

    def _route(self, inputs: Any, together: bool) -> Routes:
        count = _count(inputs)
        if not count:
            return Routes([], torch.empty(0, len(self.tasks)))
        if not self._fitted.supports:
            with torch.inference_mode(False):  # tensors of inference mode have no gradients
                # at least two: layers without an axis of examples are then known by their inputs' shape
                few = map_tensors(lambda tensor: (tensor[[0, 0]] if count == 1 else tensor)[:PROBES].clone(), inputs)
            self._fitted.prepare(self._base, lambda: self._features(_call(self._base, few)), padding_mask(few))
            self._fitted = self._fitted.to(next(iter(self._state.values())).device)
        with torch.inference_mode():
            scores = self._fitted.scores(self._base, lambda: _call(self._base, inputs), padding_mask(inputs))
        if together:
            scores = scores.sum(0, keepdim=True).expand_as(scores)
        return Routes([self.tasks[index] for index in scores.argmax(1).tolist()], scores)

    def predict(self, inputs: Any, together: bool = False) -> Prediction:
        """The outputs of each input's task model: one pass of the base for `route`, then one pass per task.

        Args:
            inputs: as in `route`.
            together: as in `route`.
        """
        with self._alone:
            tasks = self.route(inputs, together).tasks
            outputs: list[Tensor] = [torch.empty(0)] * len(tasks)
            for task in self._order(tasks):
                rows = [row for row, own in enumerate(tasks) if own == task]
                found = self.outputs(task, map_tensors(itemgetter(rows), inputs))
                for row, output in zip(rows, found, strict=True):
                    outputs[row] = output
            return Prediction(tasks, outputs)

    def outputs(self, task: str, inputs: Any) -> Tensor:
        """The outputs (B, ...) of one task's model, through its head if it has one.

        Raises:
            UserError: unknown task.
        """
        with self._alone, torch.inference_mode():
            network = self._load(task)
            features = self._features(_call(network, inputs))
            return self._heads[task](features) if task in self._heads else features

    def model(self, task: str) -> nn.Module:
        """A copy of the module with the weights of one task.

        Raises:
            UserError: unknown task.
        """
        with self._alone:
            return copy.deepcopy(self._load(task))

    def _load(self, task: str) -> nn.Module:
        """The working copy with the weights of one task; they stay loaded until another task is needed."""
        if self._loaded is None or self._loaded[0] != task:
            with torch.inference_mode(False):  # tensors of inference mode cannot be changed outside of it
                weights = apply(self._state, self._merged, task=task)
                network = copy.deepcopy(self._base) if self._loaded is None else self._loaded[1]
                network.load_state_dict(weights, strict=False)
            self._loaded = task, network
        return self._loaded[1]

    def _order(self, tasks: Sequence[str]) -> list[str]:
        """The tasks, each once; the one whose weights are loaded comes first."""
        return sorted(set(tasks), key=lambda task: (self._loaded is None or self._loaded[0] != task, task))


def load(
    folder: Path | str,
    module: nn.Module,
    heads: Mapping[str, Head] | None = None,
    features: Callable[[Any], Tensor] | None = None,
) -> ServedModel:
    """Serve what `tsv-merge method=tsv_c router=likelihood` wrote (docs/router.md).

    Args:
        folder: its output folder.
        module: the base model with the weights of the merge's base, on any device and in any floating-point dtype; its
            parameters have the names of the base file, up to a prefix, or those that transformers gives them. It is
            not changed, except for being set to evaluation mode, and must not be trained further.
        heads: task -> function from the features (B, ...) of the inputs to their outputs; a task may have none.
        features: extracts the features (B, ...) from the module's output; None: the output itself, or the first entry
            of a tuple or mapping.

    Raises:
        UserError: the folder contains no such merge, it is damaged, or the module is not the base of the merge.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"module is a {type(module).__name__}; give the base model as a torch.nn.Module")
    place = Path(folder)
    fitted, merged = read_router(place), load_merged(place)
    if fitted.tasks != merged.tasks:
        raise UserError(f"{folder}: its router and its models have different tasks; merge again")
    if unknown := sorted(set(heads or ()) - set(merged.tasks)):
        raise UserError(f"heads: there is no task {unknown[0]!r}; choose from: {', '.join(merged.tasks)}")
    names = names_in_module(module, list(merged.shapes))
    return ServedModel(module, merged.renamed(names), fitted.renamed(names), heads or {}, features or _main)


def _count(inputs: Any) -> int:
    """The number of inputs."""
    tensors = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    first = next((value for value in tensors if isinstance(value, Tensor)), None)
    if first is None:
        raise UserError(f"inputs are a {type(inputs).__name__}; give a tensor, or a mapping of arguments with tensors")
    return len(first)


def _call(module: nn.Module, inputs: Any) -> Any:
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def _main(output: Any) -> Tensor:
    """The output itself, or the first entry of a tuple or mapping."""
    if isinstance(output, Tensor):
        return output
    return _main(next(iter(output.values())) if isinstance(output, Mapping) else output[0])
