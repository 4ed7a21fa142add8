"""Steps around a method's function: `before` changes the deltas, `after` changes the merged layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tsv_exp import layers
from tsv_exp.arguments import check_arguments
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank, Representation
from tsv_exp.merging.layer import Layer, finite
from tsv_exp.methods.specification.functions import Function, accepts, function_of, parameters_of

PLACES = {"before": ("deltas",), "after": ("merged", "deltas")}  # what the functions of a place take first
FACTORS = ("factors",)  # what a function of `before` takes instead if it changes the factors of adapters
_PACKAGE = "tsv_exp.methods.steps"


@dataclass(frozen=True)
class Step:
    """One step of a method; a function marked `matrices_only` changes matrices, and the matrices of a stack."""

    name: str
    function: Function
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_factors(self) -> bool:
        """Whether it changes the factors of adapters, not deltas."""
        return parameters_of(self.function)[:1] == FACTORS

    def change(self, method: str, layer: Layer, algebra: Algebra) -> Layer:
        """The layer, changed as a step of `before`.

        Raises:
            UserError: as below; or the function takes factors, and there are none of B and A.
        """
        if not self.takes_factors:
            return layer.with_deltas(self(layer, [layer.deltas], algebra))
        if layer.slices is not None and layer.shape[1]:
            return layer.with_deltas(
                torch.stack([self.change(method, matrix, algebra).deltas for matrix in layer.slices()], 1)
            )
        return self._change_factors(method, layer, algebra) if layer.matrix else layer

    def _change_factors(self, method: str, layer: Layer, algebra: Algebra) -> Layer:
        where = f"method {method}, step {self.name}"
        if layer.factors is None:
            raise UserError(
                f"{where}, layer {layer.name!r}: it changes the factors B and A of adapters, and there are none; give "
                "LoRA adapters as models (PEFT's folders), not whole weights, and this step before others"
            )
        try:
            flipped = layer.inputs_first()
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        own = [product.transposed for product in layer.factors] if flipped else list(layer.factors)
        found = self.function(own, **self.params, **self._known(algebra))
        if not isinstance(found, Sequence) or list(map(_shape, found)) != list(map(_shape, own)):
            raise UserError(f"{where}, layer {layer.name!r}: it returned no finite LowRank(u, s, vh) for every adapter")
        return layer.with_factors([product.transposed for product in found] if flipped else found)

    def _known(self, algebra: Algebra) -> dict[str, Algebra]:
        return {"algebra": algebra} if accepts(self.function, "algebra") else {}

    def __call__(self, layer: Layer, tensors: Sequence[Tensor], algebra: Algebra) -> Tensor:
        """The first of the tensors, of shape (..., *shape of the layer), changed.

        Raises:
            UserError: the function returns no finite tensor of its shape.
        """
        first = tensors[0]
        known = self._known(algebra)
        if layer.matrix or not getattr(self.function, "matrices_only", False):
            found = self.function(*tensors, **self.params, **known)
        elif layer.slices is not None and first.shape[-3]:
            parts = zip(*(tensor.unbind(-3) for tensor in tensors), strict=True)
            found = torch.stack([self.function(*part, **self.params, **known) for part in parts], -3)
        else:
            return first
        if not isinstance(found, Tensor) or found.shape != first.shape:
            came = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"step {self.name}, layer {layer.name!r}: it returned {came}, not {tuple(first.shape)}")
        if not finite(found):
            raise UserError(f"step {self.name}, layer {layer.name!r}: it returned NaN or infinite entries")
        return found.to(first)


def _shape(product: Any) -> tuple[int, int] | None:
    """(m, n) of a product of finite factors that fit together; None of anything else."""
    if not isinstance(product, LowRank) or not all(map(finite, product)):
        return None
    u, s, vh = product
    fit = u.dim() == vh.dim() == 2 and (u.shape[1],) == s.shape == (len(vh),)
    return (len(u), vh.shape[1]) if fit else None


def read_steps(method: str, place: str, given: Any) -> tuple[Step, ...]:
    """The steps that the key `before` or `after` of a method's YAML lists.

    Args:
        method: its name, for messages.
        place: before or after.
        given: a list of names, or of mappings {name: {parameter: value}}. A name with a dot is a function to import.

    Raises:
        UserError: it is not such a list, a name is unknown, or a function does not take the parameters.
    """
    remedy = f"give a list of steps, such as {place}=[{_known(place)[0]}] or {place}=[{{NAME: {{parameter: value}}}}]"
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UserError(f"method {method}: {place}={given}: {remedy}")
    return tuple(_read_step(method, place, item, remedy) for item in given)


def _read_step(method: str, place: str, item: Any, remedy: str) -> Step:
    name, params = next(iter(item.items())) if isinstance(item, Mapping) and len(item) == 1 else (item, {})
    if not isinstance(name, str) or not isinstance(params, Mapping | None):
        raise UserError(f"method {method}: {place}=[{item}]: {remedy}")
    if "." in name:
        function = function_of(method, name)
    elif name in _known(place):
        function = getattr(import_module(f"{_PACKAGE}.{place}"), name)
    else:
        elsewhere = [other for other in PLACES if name in _known(other)]
        hint = f"; {name} is a step of {elsewhere[0]}" if elsewhere else ", or give package.module.function"
        raise UserError(f"method {method}: {place} has no step {name!r}; choose from: {', '.join(_known(place))}{hint}")
    taken = parameters_of(function)
    if taken[: len(PLACES[place])] != PLACES[place] and (place, taken[:1]) != ("before", FACTORS):
        wanted = ", ".join(PLACES[place])
        raise UserError(f"method {method}: a step of {place} takes ({wanted}, ...), and {name} takes {taken}")
    known = {"algebra": None} if "algebra" in taken else {}
    check_arguments(f"method {method}, step {name}: ", function, dict(params or {}) | known, len(PLACES[place]))
    return Step(name, function, dict(params or {}))


def _known(place: str) -> tuple[str, ...]:
    return tuple(import_module(f"{_PACKAGE}.{place}").__all__)


def change_deltas(steps: Sequence[Step], method: str, layer: Layer, algebra: Algebra) -> Layer:
    """The layer with its deltas changed by the steps of `before`."""
    for step in steps:
        layer = step.change(method, layer, algebra)
    return layer


def change_merged(steps: Sequence[Step], method: str, merged: Representation, layer: Layer, algebra: Algebra) -> Any:
    """The merged layer, changed by the steps of `after`, which also get the layer's own deltas.

    Raises:
        UserError: the method has a model for each task.
    """
    if not steps:
        return merged
    if layers.per_task(merged, layer.shape[1:]):
        raise UserError(f"method {method} has a model for each task; steps of `after` need one model for all tasks")
    dense = layers.delta(merged, layer.shape[1:])
    for step in steps:
        dense = step(layer, [dense, layer.deltas.to(dense)], algebra)
    return dense
