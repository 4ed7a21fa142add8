"""One parameter of all tasks: its deltas, computed on first use."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra, FactoredAlgebra, TaskwiseAlgebra
from tsv_exp.decompositions.numerics import Matrices, whole
from tsv_exp.layers import LowRank, compute_dtype, row_blocks

Weights = Mapping[str, Tensor]
Moments = Callable[[str], Tensor | None]  # layer -> second moments (T, n, n) of its inputs; None where there are none


Function = TypeVar("Function", bound=Callable[..., Any])


_BLOCK = 1 << 19  # entries of all tasks that are processed at a time


def entrywise(function: Function) -> Function:
    """Mark a function of deltas whose result at an entry depends only on the deltas (T,) of that entry.

    The engine calls it with blocks (T, b) of a layer, so that the work stays in the CPU's cache.
    """
    function.entrywise = True  # type: ignore[attr-defined]
    return function


def matrices_only(function: Function) -> Function:
    """Mark a step of a method that changes matrices (T, m, n) or (m, n), and leaves other layers as they are."""
    function.matrices_only = True  # type: ignore[attr-defined]
    return function


@runtime_checkable
class ExplicitDeltas(Protocol):
    """Weights that know their difference from the base more precisely than subtraction in their dtype gives it."""

    def delta(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """The difference of one parameter in `dtype`, or None if there is none."""
        ...

    def factors(self, name: str, dtype: torch.dtype) -> LowRank:
        """The difference of a matrix as a product; its components are not orthonormal."""
        ...

    def inputs_first(self, name: str) -> bool | None:
        """Whether a weight is stored as (in, out), so that its factors are Aᵀ Bᵀ, not B A; None if it is not changed.

        Raises:
            UserError: its factors are not B and A of one layer.
        """
        ...

    def sliced(self, name: str, index: int) -> "ExplicitDeltas":
        """The weights of the matrix at an index of one 3-D parameter, under its name."""
        ...


def _outputs_first() -> bool:
    return False


@dataclass(frozen=True)
class Layer:
    """One parameter over T tasks.

    Args:
        name: of the parameter.
        shape: of its deltas, (T, *shape).
        matrix: whether it has task singular vectors.
        form: computes the deltas.
        parts: computes every stride-th flattened delta, a block at a time; None where that saves nothing.
        one: computes the delta (1, m, n) of a task, by its index; None where that saves nothing.
        slices: the matrices of a 3-D parameter that is a stack of them, as layers; None of any other.
        factors: the deltas of a matrix as T products, where they are known to be of low rank (adapters).
        inputs_first: whether `factors` are Aᵀ Bᵀ, not B A (out, in); raises a UserError if they are neither.
    """

    name: str
    shape: torch.Size
    matrix: bool
    form: Callable[[], Tensor]
    parts: Callable[[int], Iterator[Tensor]] | None = None
    one: Callable[[int], Matrices] | None = None
    factors: tuple[LowRank, ...] | None = None
    slices: Callable[[], Iterator["Layer"]] | None = None
    inputs_first: Callable[[], bool] = _outputs_first

    @cached_property
    def deltas(self) -> Tensor:
        """The deltas (T, *shape), computed on first use."""
        return self.form()

    def tensors(self) -> list[Tensor]:
        """What computations on the layer start from: its factors, or its deltas, computed now; nothing of a stack."""
        if self.factors is not None:
            return [part for factors in self.factors for part in factors]
        return [] if self.slices is not None else [self.deltas]

    @property
    def transposed(self) -> "Layer":
        """The same matrices (T, m, n) as (T, n, m): those of a layer that stores its weight as (in, out)."""
        one = self.one
        return Layer(
            self.name,
            torch.Size((self.shape[0], self.shape[2], self.shape[1])),
            self.matrix,
            lambda: self.deltas.mT,
            one=None if one is None else lambda task: whole(one(task)).mT,
            factors=self.factors and tuple(part.transposed for part in self.factors),
        )

    def blocks(self, stride: int = 1) -> Iterator[Tensor]:
        """Every stride-th of the flattened deltas as (T, b), a block at a time; on a GPU all at once."""
        if self.parts is not None:
            return self.parts(stride)
        flat = self.deltas.reshape(len(self.deltas), self.shape[1:].numel())[:, ::stride]
        return iter(flat.split(_run(len(flat)), 1) if flat.device.type == "cpu" else (flat,))

    def to_decompose(self, algebra: Algebra) -> tuple[Tensor, Algebra]:
        """Deltas and an algebra for a function that only decomposes its deltas.

        Deltas that are products are never formed, and deltas that can be decomposed one at a time are never in memory
        together: a tensor on the meta device takes their place.
        """
        if self.factors is not None:
            stand_in = torch.empty(self.shape, dtype=self.factors[0].u.dtype, device="meta")
            return stand_in, FactoredAlgebra(stand_in, self.factors, algebra)
        if self.one is not None and getattr(algebra, "one_at_a_time", False):
            stand_in = torch.empty(self.shape, device="meta")
            return stand_in, TaskwiseAlgebra(stand_in, self.one, algebra)
        return self.deltas, algebra

    def with_deltas(self, deltas: Tensor) -> "Layer":
        """The same parameter with other deltas."""
        slices = self.slices
        parts = slices and (lambda: (one.with_deltas(own) for one, own in zip(slices(), deltas.unbind(1), strict=True)))
        return Layer(self.name, deltas.shape, self.matrix, lambda: deltas, slices=parts)

    def with_factors(self, factors: Sequence[LowRank]) -> "Layer":
        """The same matrix with other products as its deltas."""
        return Layer(
            self.name,
            self.shape,
            self.matrix,
            lambda: torch.stack([product.dense() for product in factors]),
            factors=tuple(factors),
            inputs_first=self.inputs_first,
        )


def differences(start: Tensor, ends: Sequence[Tensor], device: torch.device | str | None = None) -> Tensor:
    """Weights minus those of the base (T, *shape), in `compute_dtype`; a few rows at a time are converted to it."""
    dtype = compute_dtype(start.dtype)
    deltas = torch.empty((len(ends), *start.shape), dtype=dtype, device=device or start.device)
    converted = {weight.dtype for weight in (start, *ends)} != {dtype}
    weights = [weight.detach() for weight in (start, *ends)]
    for first, *others in row_blocks((*weights, *deltas), start.shape, converted):
        begin = first.to(deltas)
        for end, delta in zip(others[: len(ends)], others[len(ends) :], strict=True):
            torch.sub(end.to(deltas), begin, out=delta)
    return deltas


def without_masks(deltas: Tensor, start: Tensor, ends: Sequence[Tensor]) -> Tensor:
    """`differences` with 0 where an infinite entry of the base, as of a mask, is not changed; in place."""
    for end, delta in zip(ends, deltas, strict=True):
        delta[start.isinf().to(deltas.device) & (end.to(deltas) == start.to(deltas))] = 0
    return deltas


def finite(tensor: Tensor) -> bool:
    """Whether all entries are finite."""
    # A sum is not finite if an entry is not; the exact check, which takes memory, is needed only then.
    if tensor.numel() and not any(tensor.stride()):  # one number that stands for all entries
        tensor = tensor.as_strided((1,), (1,))
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    if tensor.dtype.itemsize == 1:  # eight bits: torch adds none of them up
        tensor = tensor.float()
    return math.isfinite(tensor.detach().sum(dtype=wide)) or bool(tensor.isfinite().all())


def _run(tasks: int) -> int:
    return max(1, _BLOCK // tasks)
