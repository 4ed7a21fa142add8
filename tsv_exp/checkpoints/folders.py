"""Finds the file in a folder that holds the weights."""

import re
from os.path import isfile  # False also for what cannot be read
from pathlib import Path

from tsv_exp.checkpoints.formats import DESCRIPTION, SUFFIXES
from tsv_exp.errors import UserError

HUB_NAMES = (  # in order of preference
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
)
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_SHARD = re.compile(r".+-\d+-of-\d+\.\w+")
_VARIANT = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)\.[\w-]+\.(safetensors|bin)")
_OTHERS = (
    ".gguf",
    ".ggml",
    ".onnx",
    ".onnx_data",
    ".msgpack",
    ".h5",
    ".distcp",
    ".tflite",
)  # formats of other programs


def weights_file(folder: Path) -> Path | None:
    """The file with a folder's weights in the hub's layout, or the index of its shards; None if there is none.

    If no file has a plain name, a variant (model.fp16.safetensors) is taken.

    Raises:
        UserError: there are several variants.
    """
    for name in HUB_NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.glob("*model.*") if is_variant(path) and path.is_file())
    if len(found) > 1:
        raise UserError(
            f"{folder} holds several variants of its weights, {found[0].name} and {found[1].name}; "
            "leave one of them, or give the file"
        )
    return found[0] if found else None


def is_variant(path: Path) -> bool:
    """Whether a file is a variant of a model's weights, such as model.fp16.safetensors."""
    return bool(_VARIANT.fullmatch(path.name)) and not _SHARD.fullmatch(path.name)


def is_shard(path: Path) -> bool:
    """Whether a file is one of several with the weights of a model, such as model-00001-of-00002.safetensors."""
    return bool(_SHARD.fullmatch(path.name)) and not path.stem.endswith("-of-00001")


def is_weights(path: Path) -> bool:
    """Whether a file holds weights, by its suffix, in this or another program's format."""
    return path.suffix in (*SUFFIXES, *_OTHERS)


def existing_weights_file(folder: Path) -> Path:
    """As `weights_file`, but a folder without weights is an error.

    Raises:
        UserError: it has none; the message names the remedy for what it holds.
    """
    found = weights_file(folder)
    if found is None:
        raise _no_weights(folder)
    return found


def _no_weights(folder: Path) -> UserError:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    weights = [path for path in files if path.suffix in SUFFIXES]
    if (folder / DESCRIPTION).is_file():
        remedy = "it holds a merge with a model per task; merge again with task=NAME for the whole model of a task"
    elif shards := [path for path in weights if _SHARD.fullmatch(path.name)]:
        remedy = f"{shards[0].name} is a shard, and its index (*.index.json) is missing; fetch that too"
    elif broken := [path for path in folder.iterdir() if path.is_symlink() and not path.exists()]:
        remedy = f"{broken[0].name} is a link to a file that is missing; fetch it again"
    elif weights:
        remedy = f"give the path of one file, such as {weights[0]}"
    elif others := [path for path in files if path.suffix in _OTHERS]:
        remedy = f"{others[0].name} has an unsupported format; give the model as safetensors"
    elif distributed := sorted(folder.glob("*/*.distcp")):
        remedy = (
            f"{distributed[0].parent.name} is a distributed checkpoint; join it with "
            f"`accelerate merge-weights {distributed[0].parent} OUT`, and give OUT"
        )
    elif (folder / "zero_to_fp32.py").is_file():
        remedy = (
            f"it is a checkpoint of DeepSpeed; run `python {folder / 'zero_to_fp32.py'} {folder} OUT`, and give OUT"
        )
    elif inside := [path for path in sorted(folder.iterdir()) if path.is_dir() and holds_model(path)]:
        more = f" (of {len(inside)})" if len(inside) > 1 else ""
        remedy = f"its subfolder {inside[0].name}{more} holds one; give {inside[0]}"
    else:
        remedy = f"expected {HUB_NAMES[0]}, its index, pytorch_model.bin or {ADAPTER_FILES[0]}"
    return UserError(f"{folder}: no checkpoint in this folder; {remedy}")


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a model or an adapter in the hub's layout; False if it cannot be read."""
    return any(isfile(folder / name) for name in (*HUB_NAMES, *ADAPTER_FILES))
