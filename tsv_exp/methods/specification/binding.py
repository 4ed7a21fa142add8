"""A method bound to a stream: its function of one layer, with steps, parameters and global statistics filled in."""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tsv_exp import layers
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.errors import UserError
from tsv_exp.layers import Representation, join_blocks, stack
from tsv_exp.merging.changed import changed
from tsv_exp.merging.layer import Layer, Moments, finite
from tsv_exp.merging.results.checks import check_result
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.functions import accepts
from tsv_exp.methods.specification.steps import change_deltas, change_merged
from tsv_exp.runtime.messages.counts import counted, some

if TYPE_CHECKING:
    from tsv_exp.methods.specification.method import Method

log = logging.getLogger(__name__)

Bound = Callable[[Layer], Representation]


def bind(method: "Method", stream: TaskVectors, algebra: Algebra, moments: Moments | None = None) -> Bound:
    """The function of one layer of a stream; it decomposes by `algebra` and uses the `moments` of the inputs.

    Raises:
        UserError: the method needs moments, and there are none.
    """
    if method.needs_moments and moments is None:
        raise UserError(
            f"method {method.name} needs second moments of the layers' inputs: tsv-exp computes them with "
            "inputs=validation, noise or other_tasks; tsv_exp.merge takes them as moments="
        )
    arguments = _arguments(method, stream, algebra)
    uncaptured = getattr(method.function, "uncaptured", method.others)  # of matrices whose inputs have no moments
    _warn_of_empty_layers(method, stream)
    devices = {"cpu", stream.compute_device.type}

    def merged(layer: Layer) -> Representation:
        if 0 in layer.shape:  # nothing to merge
            return layer.deltas[0]
        if layer.slices is not None and method.others is not method.function:
            return stack([merged(matrix) for matrix in layer.slices()])
        found = by_function(change_deltas(method.before, method.name, layer, algebra))
        return change_merged(method.after, method.name, found, layer, algebra)

    def by_function(layer: Layer) -> Representation:
        function, given = (method.function, arguments) if method.merges(layer) else (method.others, {})
        if function is method.function and method.takes_moments and moments is not None:
            found = _moments_of(layer, moments)
            missing = found is None and method.needs_moments
            there = None if found is None else found.to(stream.compute_device)
            function, given = (uncaptured, {}) if missing else (function, {**arguments, "moments": there})

        def checked(deltas: Tensor, **more: Any) -> Representation:
            return check_result(function(deltas, **given, **more), deltas.shape, devices, method.name, layer.name)

        if getattr(function, "entrywise", False):
            return join_blocks((checked(block) for block in layer.blocks()), layer.shape[1:])
        if not accepts(function, "algebra"):
            return checked(layer.deltas)
        if getattr(function, "factors_suffice", False):
            deltas, known = layer.to_decompose(algebra)
            product = getattr(function, "product", None)
            if product is not None and not method.after and layer.shape[1:].numel() > layers.LARGE:
                return product(deltas, **given, algebra=known)
            return checked(deltas, algebra=known)
        return checked(layer.deltas, algebra=algebra)

    return merged


def bind_products(method: "Method", stream: TaskVectors, algebra: Algebra) -> Bound:
    """As `bind`; if the deltas of a layer are products and the method supports it, the merge is a product too."""
    bound = bind(method, stream, algebra)
    if method.before or method.after:
        return bound

    def merged(layer: Layer) -> Representation:
        mine = method.merges(layer)
        product = getattr(method.function if mine else method.others, "product", None)
        if product is None or layer.factors is None:
            return bound(layer)
        deltas, known = layer.to_decompose(algebra)
        return product(deltas, **(method.own_params if mine else {}), algebra=known)

    return merged


def _moments_of(layer: Layer, moments: Moments) -> Tensor | None:
    """The second moments (T, n, n) of a layer's inputs, if there are any.

    Raises:
        UserError: they are something else.
    """
    found = moments(layer.name)
    wanted = (layer.shape[0], layer.shape[-1], layer.shape[-1])
    if found is None or (isinstance(found, Tensor) and found.shape == wanted and _finite_floats(found)):
        return found
    came = f"a tensor {tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
    raise UserError(
        f"moments of layer {layer.name!r}: got {came}; give a tensor {wanted} of finite floating-point numbers, one "
        "matrix per task"
    )


def _finite_floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and finite(tensor)


def _arguments(method: "Method", stream: TaskVectors, algebra: Algebra) -> dict[str, Any]:
    """The arguments of the function besides the deltas: the parameters, or the result of `prepare`."""
    if method.prepare is None:
        return method.own_params
    if method.before:
        stream = changed(stream, lambda layer: change_deltas(method.before, method.name, layer, algebra))
    found = method.prepare(stream, **method.own_params)
    if not isinstance(found, Mapping):
        came = f"its prepare returned {type(found).__name__}"
        raise UserError(f"method {method.name}: {came}; it may return a mapping of keyword arguments of the function")
    return dict(found)


def _warn_of_empty_layers(method: "Method", stream: TaskVectors) -> None:
    """Log the layers that keep no singular component: those with fewer rows or columns than there are tasks."""
    if method.params.get("rank_fraction", 1) is not None:
        return
    matrices = [name for name in stream.names if stream.is_matrix(name) or stream.is_stack(name)]
    small = [name for name in matrices if 0 < min(stream.base[name].shape[-2:]) < len(stream.tasks)]
    if small:
        log.warning(
            "%s with fewer rows or columns than the %d tasks, of which each task keeps 0 components (k = 0), "
            "copied from the base: %s; set rank_fraction, or average such layers with exclude",
            counted(len(small), "layer"),
            len(stream.tasks),
            some(small),
        )
