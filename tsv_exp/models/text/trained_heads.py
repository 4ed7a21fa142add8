"""Classifiers in checkpoints: maps their outputs to the order of the task's classes."""

from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.data.examples import plain
from tsv_exp.errors import UserError
from tsv_exp.storage.json_files import read_object
from tsv_exp.tasks.task import Task


def class_order(path: Path, task: Task, where: str) -> Tensor:
    """Indices of a classifier's outputs in the order of the task's classes (C,).

    The checkpoint's config.json may list its labels in another order; numbered labels are in the task's order.

    Args:
        path: the checkpoint; config.json may be next to it.
        task: the task; without classes there is one output.
        where: the origin, for error messages.

    Raises:
        UserError: the checkpoint's labels differ from the task's classes.
    """
    labels = _labels(path)
    if not task.classes or labels is None:
        return torch.arange(len(task.classes) or 1)
    if sorted(map(plain, labels)) != sorted(map(plain, task.classes)):
        raise UserError(
            f"{where}: its labels are {', '.join(labels)}, and the task's classes {', '.join(task.classes)}; "
            "give the task's YAML these classes, or another checkpoint"
        )
    places = {plain(label): number for number, label in enumerate(labels)}
    return torch.tensor([places[plain(name)] for name in task.classes])


def _labels(path: Path) -> list[str] | None:
    """The checkpoint's names of its outputs; None if they are numbered (LABEL_0) or there is no config.json."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    found = read_object(file).get("id2label") or {}
    names = [str(found[key]) for key in sorted(found, key=int)]
    return None if not names or all(name.startswith("LABEL_") or name.isdecimal() for name in names) else names
