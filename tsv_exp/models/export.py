"""The merged model of a run as files that open_clip loads: its whole CLIP, image and text side."""

import logging
from pathlib import Path

from tsv_exp.merging.engine import Merged, apply
from tsv_exp.models.protocol import Model
from tsv_exp.storage.files import atomic
from tsv_exp.storage.tensor_files import save

log = logging.getLogger(__name__)


def save_merged(model: Model, merged: Merged, alpha: float, folder: Path) -> list[str]:
    """Write θ_pre + α · τ into `folder`; one model at a time is in memory.

    Returns:
        The files: merged.safetensors, or merged/<task>.safetensors for each task of a method with a model per task.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    places = {task: folder / "merged" / f"{task}.safetensors" for task in merged.tasks}
    files = []
    for task, path in places.items() if merged.per_task else [(None, folder / "merged.safetensors")]:
        with atomic(path) as temporary:
            save(temporary, model.complete(apply(model.base(), merged, alpha, task)))
        log.info("merged model written to %s", path)
        files.append(str(path.absolute()))
    return files
