"""Classifiers that come with checkpoints: their outputs in the order of the task's classes."""

from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.data.examples import plain
from tsv_exp.errors import UserError
from tsv_exp.storage.json_files import read_object
from tsv_exp.tasks.task import Task


def class_order(path: Path, task: Task, where: str) -> Tensor:
    """Which outputs of a classifier are the task's classes, in their order (C,).

    The checkpoint's config.json may name its labels, in another order; where they are numbers, the order is the task's.

    Args:
        path: of the checkpoint, beside which config.json may lie.
        task: its classes; where it has none, there is one output.
        where: for errors.

    Raises:
        UserError: the checkpoint's labels are others than the task's classes.
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
    """The checkpoint's own names of its outputs; None where they are numbers (LABEL_0) or there is no config.json."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    found = read_object(file).get("id2label") or {}
    names = [str(found[key]) for key in sorted(found, key=int)]
    return None if not names or all(name.startswith("LABEL_") or name.isdecimal() for name in names) else names
