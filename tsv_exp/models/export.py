"""The merged model of a run in the format of its library: a file of weights, or a folder with its configuration."""

import logging
from pathlib import Path

from tsv_exp.checkpoints.readers import HUB_NAMES
from tsv_exp.merging.engine import Merged, apply
from tsv_exp.models.protocol import Model
from tsv_exp.storage.files import atomic
from tsv_exp.storage.tensor_files import save

log = logging.getLogger(__name__)


def save_merged(model: Model, merged: Merged, alpha: float, folder: Path) -> list[str]:
    """Write θ_pre + α · τ into `folder`; holds one model at a time in memory.

    Returns:
        The paths written: merged.safetensors, or merged/ if the library loads a folder; for methods with a model per
        task merged/<task>.safetensors or merged/<task>/.

    Raises:
        UserError: the folder is not writable, or the disk is full.
    """
    beside = model.configuration()
    stems = {task: folder / "merged" / task for task in merged.tasks} if merged.per_task else {None: folder / "merged"}
    found = []
    for task, stem in stems.items():
        path = stem.with_name(f"{stem.name}.safetensors") if beside is None else stem / HUB_NAMES[0]
        if beside is not None:
            beside.write(stem)
        with atomic(path) as temporary:
            save(temporary, model.complete(apply(model.base(), merged, alpha, task)))
        found.append(str((path if beside is None else stem).absolute()))
        log.info("merged model written to %s", found[-1])
    return found
