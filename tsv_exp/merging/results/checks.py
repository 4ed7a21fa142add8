"""Checks what a method returns for a layer; a wrong result is a one-line error."""

from typing import Any

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank, Masked, Representation
from tsv_exp.merging.layer import finite


def check_result(result: Any, shape: torch.Size, devices: set[str], method: str, layer: str) -> Representation:
    """The result of a method's function, if it can be a merged layer.

    Args:
        result: what the function returned for deltas of `shape`.
        shape: (T, *shape) of the deltas that it was given.
        devices: types of device on which the result may lie.
        method: the method's name, for the message.
        layer: the layer's name, for the message.

    Raises:
        UserError: another type or shape, not floating point, NaN or infinite, or on another device.
    """
    tasks, one = shape[0], shape[1:]

    def refuse(came: str, may: str = "") -> UserError:
        may = may or (
            f"a tensor of shape {tuple(one)} (one model for all tasks) or {tuple(shape)} (one per task), or LowRank "
            "factors or Masked vectors of such shapes"
        )
        return UserError(f"method {method}, layer {layer!r}: its function returned {came}; it may return {may}")

    if isinstance(result, Tensor):
        if result.shape not in (one, shape):
            raise refuse(f"a tensor of shape {tuple(result.shape)}")
        numbers = [result]
    elif isinstance(result, LowRank):
        if not all(isinstance(part, Tensor) for part in result) or not _fits(result, tasks, one):
            raise refuse(f"LowRank factors of shapes {', '.join(map(_described, result))}")
        numbers = list(result)
    elif isinstance(result, Masked):
        wanted = (one, shape, (tasks,))
        parts = [part for part in zip(result, wanted, strict=True) if part[0] is not None]
        if any(not isinstance(part, Tensor) or part.shape != size for part, size in parts):
            raise refuse(f"a Masked layer of shapes {', '.join(map(_described, result))}")
        if result.masks.dtype != torch.bool:
            raise refuse(f"masks of type {_dtype(result.masks)}", "masks of type bool")
        numbers = [result.vector] if result.scales is None else [result.vector, result.scales]
    else:
        raise refuse(f"{type(result).__name__}")
    for tensor in numbers:
        if not tensor.is_floating_point():
            raise refuse(f"numbers of type {_dtype(tensor)}", "floating-point numbers")
        if tensor.device.type not in devices:
            raise refuse(f"a tensor on {tensor.device}", f"tensors on {' or '.join(sorted(devices))}")
        if not finite(tensor):
            raise refuse("NaN or infinite entries", "finite numbers; look for a division by zero or an overflow")
    return result


def _fits(factors: LowRank, tasks: int, shape: torch.Size) -> bool:
    """Whether u (m, k), s (k), vh (k, n), or the same with one more dimension for the tasks, make a matrix (m, n)."""
    if len(shape) != 2 or factors.s.dim() not in (1, 2):
        return False
    front, k = factors.s.shape[:-1], factors.s.shape[-1]
    expected = (*front, shape[0], k), (*front, k), (*front, k, shape[1])
    return tuple(front) in ((), (tasks,)) and tuple(tuple(part.shape) for part in factors) == expected


def _described(part: Any) -> str:
    return str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
