"""Routers: scores of every task for every input, from statistics of the task matrices of single layers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.merging.layer import Layer
from tsv_exp.merging.layer_map import map_layers
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.routing.capture import captured, linear_layers, stores_transposed
from tsv_exp.routing.tokens import Support, supports, token_weights

Statistics = dict[str, Tensor]
Run = Callable[[], Tensor]


class Router(ABC):
    """How a task is chosen for an input; the configurations are in conf/router.

    Attributes:
        name: of its YAML.
        hint: what may help where it finds no layer, for the error message.
        layers: patterns of the parameters whose inputs it scores.
        undecided: whether one of the layers has still to be chosen on validation (`decided`).
    """

    name: ClassVar[str]
    hint: ClassVar[str] = ""
    undecided: bool = False
    layers: Sequence[str]

    @abstractmethod
    def statistics(self, layer: Layer, algebra: Algebra) -> Statistics | None:
        """What it keeps of a matrix layer's deltas; None where no task changes the layer."""

    @abstractmethod
    def layer_scores(self, inputs: Tensor, weights: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """Scores (B, T), float32, from one layer's inputs (B, L, n) and the weights (B, L) of their tokens."""

    @abstractmethod
    def combined(self, scores: Sequence[Tensor]) -> Tensor:
        """Scores (B, T) from those of every layer; the largest one wins."""

    def decided(self, layer: str) -> "Router":
        """The router that scores this layer only."""
        raise NotImplementedError(f"{type(self).__name__} chooses no layer")


@dataclass
class FittedRouter:
    """A router with the statistics of T tasks, by layer.

    `supports`: which tokens count, by layer; found by the first pass (`prepare`).
    """

    router: Router
    tasks: tuple[str, ...]
    layers: Mapping[str, Mapping[str, Tensor]]
    supports: dict[str, Support] = field(default_factory=dict)

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk of the statistics."""
        tensors = (tensor for statistics in self.layers.values() for tensor in statistics.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def to(self, device: torch.device) -> "FittedRouter":
        """The router with its statistics on a device."""
        moved = {
            name: {key: tensor.to(device) for key, tensor in statistics.items()}
            for name, statistics in self.layers.items()
        }
        return replace(self, layers=moved)

    def renamed(self, names: Mapping[str, str]) -> "FittedRouter":
        """The same router with some layers under other names: own name -> new name."""
        return replace(self, layers={names.get(name, name): statistics for name, statistics in self.layers.items()})

    def decided(self, layer: str) -> "FittedRouter":
        """The router that scores one layer only."""
        kinds = {name: kind for name, kind in self.supports.items() if name == layer}
        return replace(self, router=self.router.decided(layer), layers={layer: self.layers[layer]}, supports=kinds)

    def prepare(self, network: nn.Module, run: Run, mask: Tensor | None) -> None:
        """Find which tokens count, by one pass of a few examples; done once per network.

        Args:
            network: the base model in evaluation mode.
            run: runs the network on these examples; returns outputs (B, ...).
            mask: (B, L), nonzero where a token is no padding; or None.

        Raises:
            UserError: the pass reaches none of the router's layers.
        """
        self.supports = supports(network, self.layers, run, mask)
        if not self.supports:
            some = ", ".join(list(self.layers)[:3]) or "none"
            known = ", ".join(list(linear_layers(network, (name for name, _ in network.named_parameters())))[:3])
            raise UserError(
                f"the router's layers ({some}, ...) are not linear layers of this model ({known}, ...); give the "
                "base model of the merge"
            )

    def layer_scores(self, network: nn.Module, run: Callable[[], Any], mask: Tensor | None) -> dict[str, Tensor]:
        """Layer -> scores (B, T) of the examples on which `run` runs the network once; after `prepare`."""
        found: dict[str, Tensor] = {}

        def receive(name: str, inputs: Tensor) -> None:
            shape = inputs.shape[0], inputs.shape[1]
            weights = token_weights(shape, mask, self.supports[name], inputs.device)
            if self.supports[name] != "all":  # the others weigh nothing
                inputs, weights = _single(inputs, weights)
            with torch.autocast(inputs.device.type, enabled=False):
                found[name] = self.router.layer_scores(inputs, weights, self.layers[name])

        with captured(network, self.supports, receive):
            run()
        return found

    def scores(self, network: nn.Module, run: Callable[[], Any], mask: Tensor | None) -> Tensor:
        """Scores (B, T) of the examples on which `run` runs the network once; after `prepare`."""
        return self.router.combined(list(self.layer_scores(network, run, mask).values()))


def fit(
    router: Router,
    stream: TaskVectors,
    algebra: Algebra,
    network: nn.Module | None = None,
    transposed: Container[str] = (),
) -> FittedRouter:
    """The router for these task vectors; holds one layer × T at a time.

    Args:
        router: the router.
        stream: the task vectors.
        algebra: how task matrices are decomposed.
        network: the base model, whose linear layers are read; None: every matrix is.
        transposed: without a network, the parameters that are stored as (in, out).

    Raises:
        UserError: no layer matches the router's patterns, or no task changes one.
    """
    matrices = [name for name in stream.names if stream.is_matrix(name)]
    usable = matrices
    if network is not None:
        modules = linear_layers(network, matrices)
        usable = list(modules)
        transposed = {name for name, module in modules.items() if stores_transposed(module)}
    names = [name for name in usable if matches(name, router.layers)]
    kept = map_layers(
        lambda layer: router.statistics(layer.transposed if layer.name in transposed else layer, algebra),
        stream.with_progress(f"router {router.name}"),
        algebra,
        names,
    )
    layers = {name: statistics for name, statistics in zip(names, kept, strict=True) if statistics is not None}
    if not layers:
        some = ", ".join(usable[:3]) or "there is none"
        raise UserError(
            f"router={router.name}: its layers ({', '.join(router.layers)}) match no matrix that a task changes; the "
            f"model's are: {some}, ...{router.hint}"
        )
    return FittedRouter(router, stream.tasks, layers)


def _single(inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The token of each example that has weight: (B, 1, n) and (B, 1)."""
    index = weights.argmax(1)
    rows = torch.arange(len(inputs), device=inputs.device)
    return inputs[rows, index].unsqueeze(1), weights[rows, index].unsqueeze(1)
