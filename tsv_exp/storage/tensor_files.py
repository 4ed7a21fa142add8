"""Writes tensors in the safetensors format from memory or from a stream."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from tsv_exp.errors import UserError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float4_e2m1fn_x2: "F4",
}  # fmt: skip
_PACKED = (torch.float4_e2m1fn_x2,)  # two numbers in one element; the format counts numbers


Kinds: TypeAlias = Mapping[str, tuple[torch.dtype, Sequence[int]]]  # name -> dtype and shape


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors in the safetensors format without copies; a full disk raises OSError."""
    with path.open("wb") as file:
        stream(file, kinds(tensors), tensors.values(), metadata)


def kinds(tensors: Mapping[str, Tensor]) -> Kinds:
    """The dtypes and shapes of tensors, for a file's header."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


class Sink(Protocol):
    """A destination of bytes."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Write bytes."""
        ...


def stream(file: Sink, kinds: Kinds, tensors: Iterable[Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a stream of tensors in the safetensors format; the header with their dtypes and shapes comes first."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, (dtype, shape) in kinds.items():
        if dtype not in _NAMES:
            remedy = "keep it out of the weights, or store it in another"
            raise UserError(f"tensor {name!r}: safetensors has no dtype {str(dtype).removeprefix('torch.')}; {remedy}")
        size = math.prod(shape) * dtype.itemsize
        counts = [*shape[:-1], 2 * shape[-1]] if dtype in _PACKED and shape else list(shape)
        entries[name] = {"dtype": _NAMES[dtype], "shape": counts, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 64)  # aligned data can be memory-mapped
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def header(path: Path) -> dict[str, object]:
    """The header of a safetensors file."""
    with path.open("rb") as file:
        return dict(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
