"""merged.json: the description of a merge with one model per task, and checks of the tensors against it."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from tsv_exp.checkpoints.formats import DESCRIPTION
from tsv_exp.checkpoints.readers import file_digest
from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.samples import VALUES, sample
from tsv_exp.merging.layer import Weights, finite
from tsv_exp.methods.specification.method import Method
from tsv_exp.methods.specification.steps import PLACES
from tsv_exp.storage.json_files import read_object

_FILE = re.compile(r"[\w.-]{1,100}\.safetensors")
_LARGEST = 1 << 40  # largest number of entries of a layer
_LARGEST_ALPHA = 1e9
_MEMORY = 1 << 60  # largest model in bytes


def key_prefix(name: str, task: str) -> str:
    """The key prefix of the tensors of a layer and a task."""
    return f"{name}/{quote(task, safe='')}"


def describe(
    method: Method, tasks: Iterable[str], base: Mapping[str, Tensor], alpha: float, files: Mapping[str, str]
) -> str:
    """The JSON text of merged.json: everything about a merge except its layers.

    `files` are the names and digests of the files with its layers.
    """
    return json.dumps(
        {
            "method": method.name,
            "params": dict(method.params),
            "alpha": alpha,
            "files": dict(files),
            "tasks": list(tasks),
            "base_bytes": sum(weight.numel() * weight.element_size() for weight in base.values()),
            "layers": {
                name: {
                    "shape": list(weight.shape),
                    "dtype": str(weight.dtype).removeprefix("torch."),
                    "sample": sample(weight),
                }
                for name, weight in base.items()
                if weight.is_floating_point()
            },
        },
        indent=1,
    )


@dataclass(frozen=True)
class Description:
    """The content of merged.json, with validated types."""

    method: Method
    tasks: tuple[str, ...]
    alpha: float
    base_bytes: int
    shapes: dict[str, torch.Size]
    dtypes: dict[str, torch.dtype]
    files: dict[str, str]
    samples: dict[str, list[float]]

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Read the description in a folder, and check that its files are the ones it was written with.

        Raises:
            UserError: there is none, a value is invalid, or a file has changed.
        """
        try:
            found = cls._of(read_object(folder / DESCRIPTION))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{folder} holds no merge by task ({reason}); tsv-merge method=tsv_c writes one") from error
        for name, wanted in found.files.items():
            if not (folder / name).is_file() or file_digest(folder / name) != wanted:
                raise UserError(
                    f"{folder / name} is not the file that {DESCRIPTION} was written with; merge again, into a folder "
                    "of its own"
                )
        return found

    @classmethod
    def _of(cls, content: dict[str, Any]) -> "Description":
        tasks, layers, files = content["tasks"], content["layers"], content["files"]
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks) or not tasks:
            raise ValueError("tasks is not a list of names")
        if len(set(tasks)) < len(tasks):
            raise ValueError("tasks names one twice")
        if not files or not all(_plain(name) and isinstance(digest, str) for name, digest in files.items()):
            raise ValueError("files is not a table of file names and digests")
        alpha, base_bytes = content["alpha"], content["base_bytes"]
        if not _number(alpha) or not abs(alpha) <= _LARGEST_ALPHA:
            raise ValueError(f"alpha is {str(alpha)[:40]}, not a valid number")
        shapes = {name: _shape(name, entry["shape"]) for name, entry in layers.items()}
        dtypes = {name: _dtype(name, entry["dtype"]) for name, entry in layers.items()}
        samples = {name: _sample(name, entry["sample"]) for name, entry in layers.items() if "sample" in entry}
        least = sum(shape.numel() * dtypes[name].itemsize for name, shape in shapes.items())
        if isinstance(base_bytes, bool) or not isinstance(base_bytes, int) or not least <= base_bytes < _MEMORY:
            raise ValueError(f"base_bytes is {str(base_bytes)[:40]}, which does not fit the layers")
        # steps are a record of what was done; reading one would import the function that it names
        params = {key: value for key, value in content["params"].items() if key not in PLACES}
        method = Method.load(str(content["method"])).with_params(**params)
        return cls(method, tuple(tasks), float(alpha), base_bytes, shapes, dtypes, dict(files), samples)


def check_parts(folder: Path, description: Description, stored: Weights) -> None:
    """Check that every tensor in the files belongs to a layer, has its shape, and is finite.

    Raises:
        UserError: a tensor fails the check; the message names it.
    """
    tasks = description.tasks
    owners = {name: name for name in description.shapes}
    owners |= {key_prefix(name, task): name for name in description.shapes for task in tasks}
    for key in stored:
        at, _, part = key.rpartition("/")
        if at not in owners:
            raise UserError(f"{folder}: {at} belongs to no layer and task of its {DESCRIPTION}; merge again")
        wanted, tensor = _wanted(at, part, description.shapes[owners[at]], stored, len(tasks)), stored[key]
        if tensor.shape != wanted or not _right(part, tensor, description.shapes[owners[at]]):
            raise UserError(f"{folder}: the tensor {key!r} is not what its {DESCRIPTION} says; merge again")
    for name in description.shapes:
        masks = [f"{key_prefix(name, task)}/mask" in stored for task in tasks]
        if any(masks) != (f"{name}/vector" in stored) or any(masks) != all(masks):
            raise UserError(f"{folder}: {name!r} lacks its vector or one of its masks; merge again")


def _right(part: str, tensor: Tensor, shape: torch.Size) -> bool:
    """Whether the values of a part are valid."""
    if part == "mask":
        return tensor.dtype == torch.uint8
    if part == "rows":
        ascending = bool((tensor.diff() > 0).all()) and bool(((tensor >= 0) & (tensor < shape[0])).all())
        return tensor.dtype == torch.int32 and ascending
    return tensor.is_floating_point() and finite(tensor)


def _wanted(at: str, part: str, shape: torch.Size, stored: Weights, tasks: int) -> torch.Size | None:
    """The expected shape of one part of a layer, or None if there is no such part."""
    rows = stored.get(f"{at}/rows")
    if rows is not None and part in ("rows", "delta"):
        if len(shape) != 2 or rows.dim() != 1:
            return None
        return torch.Size([len(rows)] if part == "rows" else [len(rows), shape[1]])
    if part in ("vector", "delta"):
        return shape
    if part == "mask":
        return torch.Size([-(-shape.numel() // 8)])
    if part == "scales":
        return torch.Size([tasks])
    factors = [f"{at}/{factor}" for factor in ("u", "s", "vh")]
    if part not in ("u", "s", "vh") or len(shape) < 2 or not all(factor in stored for factor in factors):
        return None
    (*stack, m, n), k = shape, (stored[f"{at}/s"].shape or (0,))[-1]
    return torch.Size({"u": (*stack, m, k), "s": (*stack, k), "vh": (*stack, k, n)}[part])


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(name: str) -> bool:
    return bool(_FILE.fullmatch(name))


def _shape(name: str, sizes: Any) -> torch.Size:
    plain = isinstance(sizes, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not plain or any(size < 0 for size in sizes) or math.prod(sizes) > _LARGEST:
        raise ValueError(f"layer {name!r} has no valid shape")
    return torch.Size(sizes)


def _sample(name: str, values: Any) -> list[float]:
    if not isinstance(values, list) or len(values) > VALUES or not all(map(_number, values)):
        raise ValueError(f"layer {name!r} has no valid sample of the base")
    return [float(value) for value in values]


def _dtype(name: str, text: Any) -> torch.dtype:
    dtype = getattr(torch, text, None) if isinstance(text, str) else None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"layer {name!r} has no floating-point dtype")
    return dtype
