"""The kind of content of a file, and the state dict in a trainer's checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tsv_exp.checkpoints.checks.archives import is_archive, program_in
from tsv_exp.errors import UserError

log = logging.getLogger(__name__)

_LFS = b"version https://git-lfs.github.com/spec/"
_LLAMA_CPP = (b"GGUF", b"lmgg", b"tjgg")  # GGUF and its predecessors, which were called .bin
# keys under which trainers store a state dict, in order
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


def check_content(path: Path) -> None:
    """Check for files that are often mistaken for weights."""
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start.lstrip()[:1] == b"<":
        raise UserError(
            f"{path}: a web page, not weights; download the file itself (of a gated repository after hf auth login)"
        )
    if start == _LFS:
        raise UserError(
            f"{path}: a pointer of git-lfs, not the weights themselves; run `git lfs pull` in its repository"
        )
    if start[:4] in _LLAMA_CPP:
        raise UserError(
            f"{path}: a file of llama.cpp (GGUF), mostly of quantized weights; give the model as safetensors"
        )
    if is_archive(path) and (program := program_in(path)) is not None:
        library, load = program
        raise UserError(
            f"{path}: an archive of {library}, a program with weights; load it with {load} and save its state_dict"
        )


def is_safetensors(path: Path) -> bool:
    """Whether a file is in the safetensors format, by its content, or by its suffix where it is damaged."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return True
    return path.suffix == ".safetensors" and start[:2] not in (b"PK", b"\x80\x02")  # PyTorch's formats


def state_dict_of(found: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The state dict in a trainer's checkpoint; a warning names other weights beside it."""
    if {"state", "param_groups"} <= set(found):
        raise UserError(f"{path}: the state of an optimizer, not a model; give the model's file")
    for key in _WRAPPERS:
        if isinstance(found.get(key), Mapping) and found[key]:
            if others := [other for other, value in found.items() if other != key and _holds_weights(value)]:
                log.warning(
                    "%s holds several models, %r and %s; %r is taken; for another, save it alone: "
                    "torch.save(torch.load(FILE)[%r], NEW_FILE)",
                    *(path, key, " and ".join(map(repr, others)), key, others[0]),
                )
            found = found[key]
    if any(isinstance(value, Tensor) for value in found.values()):
        return found
    inside = [key for key, value in found.items() if _holds_weights(value)]  # under a key of someone's own
    if len(inside) > 1:
        raise UserError(
            f"{path} holds several models, {' and '.join(map(repr, inside))}; save the one that you mean alone: "
            f"torch.save(torch.load(FILE)[{inside[0]!r}], NEW_FILE)"
        )
    return state_dict_of(found[inside[0]], path) if inside else found


def _holds_weights(value: object) -> bool:
    """Whether a value in a trainer's checkpoint is a state dict, or holds one; states of optimizers are neither."""
    if not isinstance(value, Mapping):
        return False
    tensors = (tensor for tensor in value.values() if isinstance(tensor, Tensor))
    own = any(tensor.is_floating_point() and tensor.dim() for tensor in tensors)
    return own or any(_holds_weights(value.get(key)) for key in _WRAPPERS)
