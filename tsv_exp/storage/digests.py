"""Digests of plain values, tensors and files."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashlib import _Hash


def digest(*parts: Any) -> str:
    """Hexadecimal SHA-256 of nested plain values, bytes, tensors, arrays and mappings, types and shapes included."""
    state = hashlib.sha256()
    for part in parts:
        _feed(state, part)
    return state.hexdigest()


def _feed(state: "_Hash", part: Any) -> None:
    if isinstance(part, Mapping):
        state.update(b"{%d" % len(part))
        for key in sorted(part):
            _feed(state, key)
            _feed(state, part[key])
    elif isinstance(part, (list, tuple)):
        state.update(b"[%d" % len(part))
        for item in part:
            _feed(state, item)
    elif isinstance(part, bytes):
        state.update(b"b%d:" % len(part))
        state.update(part)
    elif part is None or isinstance(part, (str, int, float)):
        _feed(state, f"{type(part).__name__}:{part!r}".encode())
    elif hasattr(part, "detach"):  # a torch tensor, without importing torch
        import torch

        tensor = part.detach().cpu().contiguous()
        _feed(state, f"{tensor.dtype}{tuple(tensor.shape)}")
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())
    elif hasattr(part, "tobytes"):  # a numpy array
        _feed(state, f"{part.dtype}{part.shape}")
        state.update(part.tobytes())
    else:
        raise TypeError(f"cannot digest {type(part).__name__}")
