"""Merged task vectors on disk: shared tensors, low-rank factors per task, changed rows, masks at one bit per entry."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tsv_exp import layers
from tsv_exp.checkpoints.description import Description, check_parts, key_prefix
from tsv_exp.checkpoints.readers import read
from tsv_exp.layers import LowRank, Masked, Representation
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.layer import Weights

STEM = "merged"
_NUMBERS = ("vector", "delta", "s")  # parts stored in the requested dtype


def encode(
    name: str, layer: Representation, shape: torch.Size, tasks: Iterable[str], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Encode one layer before α as tensors in `dtype`; zeros are left out.

    Names are <layer>/<part> for tensors that all tasks share, else <layer>/<task>/<part> with the task's name quoted.
    """
    tasks = list(tasks)
    tensors: dict[str, Tensor] = {}
    if isinstance(layer, Masked):
        if layer.vector.any():
            tensors[f"{name}/vector"] = layer.vector.to(dtype)
            for task, mask in zip(tasks, layer.masks, strict=True):
                tensors[f"{key_prefix(name, task)}/mask"] = torch.from_numpy(
                    np.packbits(mask.cpu().reshape(-1).numpy())
                )
            if layer.scales is not None:
                tensors[f"{name}/scales"] = layer.scales
        return tensors
    shared = not layers.per_task(layer, shape)
    for index, task in [(None, "")] if shared else list(enumerate(tasks)):
        key = name if shared else key_prefix(name, task)
        if isinstance(layer, LowRank):
            u, s, vh = layer if index is None else (part[index] for part in layer)
            kept = (s != 0).any(0) if s.dim() > 1 else s != 0
            if int(kept.sum()) * (sum(shape[-2:]) + 1) <= shape[-2:].numel():
                if kept.any():
                    parts = {"u": u[..., kept], "s": s[..., kept], "vh": vh[..., kept, :]}
                    tensors |= {f"{key}/{part}": value.to(dtype) for part, value in parts.items()}
                continue
        tau = layers.delta(layer, shape, index)
        if tau.any():
            rows = layers.changed_rows(tau, dtype.itemsize)
            if rows is not None:
                tensors[f"{key}/rows"], tau = rows, tau[rows]
            tensors[f"{key}/delta"] = tau.to(dtype)
    return tensors


def decode(
    name: str, shape: torch.Size, tasks: Sequence[str], stored: Weights, per_task: bool, dtype: torch.dtype
) -> Representation:
    """Decode the tensors of `encode` to a layer."""
    if f"{name}/vector" in stored:
        masks = [np.unpackbits(stored[f"{key_prefix(name, task)}/mask"].numpy(), count=shape.numel()) for task in tasks]
        packed = torch.from_numpy(np.stack(masks)).bool().view(-1, *shape)
        return Masked(stored[f"{name}/vector"].to(dtype), packed, stored.get(f"{name}/scales"))
    keys = [key_prefix(name, task) for task in tasks] if per_task else [name]
    if any(f"{key}/delta" in stored for key in keys) or not any(f"{key}/s" in stored for key in keys):
        parts = [_dense(key, shape, stored, dtype) for key in keys]
        return torch.stack(parts) if per_task and any(part.any() for part in parts) else parts[0]
    rank = max(stored[f"{key}/s"].shape[-1] for key in keys if f"{key}/s" in stored)
    *stack, m, n = shape
    factors = LowRank(*(torch.zeros(len(keys), *stack, *size, dtype=dtype) for size in ((m, rank), (rank,), (rank, n))))
    for i, key in enumerate(keys):
        if f"{key}/s" in stored:
            k = stored[f"{key}/s"].shape[-1]
            factors.u[i, ..., :k], factors.s[i, ..., :k], factors.vh[i, ..., :k, :] = (
                stored[f"{key}/{part}"] for part in ("u", "s", "vh")
            )
    return factors if per_task else LowRank(*(part[0] for part in factors))


def _dense(key: str, shape: torch.Size, stored: Weights, dtype: torch.dtype) -> Tensor:
    if f"{key}/rows" in stored:
        rows, changed = stored[f"{key}/rows"].long(), stored[f"{key}/delta"].to(dtype)
        return torch.zeros(shape, dtype=dtype).index_copy(0, rows, changed)
    if f"{key}/delta" in stored:
        return stored[f"{key}/delta"].to(dtype)
    if f"{key}/s" in stored:
        return LowRank(*(stored[f"{key}/{part}"].to(dtype) for part in ("u", "s", "vh"))).dense()
    return torch.zeros((), dtype=dtype).expand(shape)


def load_merged(folder: Path | str) -> Merged:
    """Load the merged task vectors that tsv-merge wrote for a method with one model per task, for `tsv_exp.apply`.

    They are scaled by tsv-merge's α; sizes refer to the stored dtype.

    Raises:
        UserError: the folder does not contain such a merge.
    """
    folder = Path(folder)
    index = folder / f"{STEM}.safetensors.index.json"
    description = Description.read(folder)
    tasks, shapes, dtypes = description.tasks, description.shapes, description.dtypes
    stored = read(index if index.is_file() else folder / f"{STEM}.safetensors")
    check_parts(folder, description, stored)
    own = {name: {key_prefix(name, task) for task in tasks} for name in shapes}
    parts = [key.rpartition("/") for key in stored]
    places = {at for at, _, _ in parts}
    written = {at: stored[f"{at}/{part}"].element_size() for at, _, part in parts if part in _NUMBERS}

    def layer(name: str, shape: torch.Size) -> Representation:
        by_task, dtype = not own[name].isdisjoint(places), torch.promote_types(dtypes[name], torch.float32)
        return layers.scaled(decode(name, shape, tasks, stored, by_task, dtype), description.alpha)

    def itemsize(name: str) -> int:
        return next((written[at] for at in (name, *own[name]) if at in written), dtypes[name].itemsize)

    return Merged(
        method=description.method,
        tasks=tasks,
        layers={name: layer(name, shape) for name, shape in shapes.items()},
        shapes=shapes,
        itemsizes={name: itemsize(name) for name in shapes},
        base_bytes=description.base_bytes,
        samples={
            name: values
            for name, values in description.samples.items()
            if not places.isdisjoint(own[name] | {name})  # other tensors may be those of another head
        },
    )
