"""Devices: selection, number format and batch size."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tsv_exp.config import check_device, check_precision
from tsv_exp.errors import UserError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
CPU_BATCH = 256
MOST = 1024  # larger batches are not faster on any GPU
PER_EXAMPLE = 32 << 20  # bytes: about twice the memory of one image in ViT-L-14, the largest CLIP, in float32


def device_of(wanted: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda:N` names.

    Raises:
        UserError: this machine has no such device.
    """
    check_device(wanted)
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={wanted}: no such device on this machine ({torch.cuda.device_count()} CUDA devices); choose cpu"
        )
    return device


def usable(device: torch.device | str) -> torch.device:
    """A device of torch by name, of any kind.

    Raises:
        UserError: this machine has no such device.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # of torch without it, of a machine without it
        raise UserError(f"device={device}: no such device on this machine; choose cpu") from error


def resolve(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products for "auto" (bfloat16 if the hardware supports it) or a name in DTYPES.

    Raises:
        UserError: the name is unknown.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        has_bfloat16 = torch.cpu._is_avx512_bf16_supported() if device.type == "cpu" else False
        return torch.bfloat16 if has_bfloat16 else torch.float32
    check_precision(precision)
    return DTYPES[precision]


@contextlib.contextmanager
def mixed(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Autocast to `dtype` (float32: off); on a CPU also plain attention, which is faster there for short sequences."""
    plain = contextlib.nullcontext() if device.type != "cpu" else sdpa_kernel([SDPBackend.MATH])
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), plain:
        yield


def batch_size(device: torch.device) -> int:
    """A power of two from 1 to 1024 that fits into the free memory of a GPU; 256 on a CPU.

    This is an initial estimate: the evaluator halves it if memory runs out.
    """
    if device.type != "cuda":
        return CPU_BATCH
    free, _ = torch.cuda.mem_get_info(device)
    return 1 << (max(1, min(MOST, free // PER_EXAMPLE)).bit_length() - 1)


def moved(inputs: Any, device: torch.device) -> Any:
    """Move the tensors in nested mappings, lists and tuples to a device."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), inputs)


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    """The inputs with a function applied to every tensor in nested mappings, lists and tuples."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: map_tensors(function, value) for name, value in inputs.items()}
    plain = isinstance(inputs, list | tuple)
    return type(inputs)(map_tensors(function, value) for value in inputs) if plain else inputs
