"""Arithmetic by device: bfloat16 where the hardware has it, float32 elsewhere."""

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tsv_exp.errors import UserError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def resolve(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products for "auto" or a name of DTYPES.

    Raises:
        UserError: another name.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        has_bfloat16 = torch.cpu._is_avx512_bf16_supported() if device.type == "cpu" else False
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if precision not in DTYPES:
        raise UserError(f"precision={precision}: choose auto, {', '.join(DTYPES)}")
    return DTYPES[precision]


@contextlib.contextmanager
def mixed(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Autocast to `dtype` (float32: off); on a CPU also plain attention, which is faster there for short sequences."""
    plain = contextlib.nullcontext() if device.type != "cpu" else sdpa_kernel([SDPBackend.MATH])
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), plain:
        yield
