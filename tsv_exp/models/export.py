"""The merged model of a run in the format of its library: a file of weights, or a folder with its configuration."""

import logging
from collections.abc import Mapping
from pathlib import Path

from tsv_exp.checkpoints.folders import HUB_NAMES
from tsv_exp.merging.engine import Merged, apply
from tsv_exp.models.protocol import Model
from tsv_exp.storage.files import atomic
from tsv_exp.storage.tensor_files import save
from tsv_exp.tasks.task import Task

log = logging.getLogger(__name__)


def save_merged(model: Model, tasks: Mapping[str, Task], merged: Merged, alpha: float, folder: Path) -> list[str]:
    """Write θ_pre + α · τ into `folder`; holds one model at a time in memory.

    Args:
        model: the base, and the format.
        tasks: the merged tasks by name, whose heads are saved if `model.own_heads`.
        merged: the merged task vector, or one per task.
        alpha: its scale.
        folder: where the files are written.

    Returns:
        The paths written: merged.safetensors, or merged/ if the library loads a folder; for methods with a model per
        task, or checkpoints with a head per task, merged/<task>.safetensors or merged/<task>/.

    Raises:
        UserError: the folder is not writable, or the disk is full.
    """
    each = merged.per_task or model.own_heads
    found = []
    for name in merged.tasks if each else [None]:
        head = tasks[name] if name is not None and model.own_heads else None
        weights = apply(model.base(), merged, alpha, name if merged.per_task else None)
        stem = folder / "merged" / (name or "")
        beside = model.configuration(head) if head else model.configuration()
        path = stem.with_name(f"{stem.name}.safetensors") if beside is None else stem / HUB_NAMES[0]
        if beside is not None:
            beside.write(stem)
        with atomic(path) as temporary:
            save(temporary, model.complete(weights, head) if head else model.complete(weights))
        found.append(str((path if beside is None else stem).absolute()))
        log.info("merged model written to %s", found[-1])
    return found
