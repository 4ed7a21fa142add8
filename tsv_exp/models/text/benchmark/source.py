"""The packaged text tasks as sources of examples for the YAMLs in conf/task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tsv_exp.checkpoints.readers import file_digest
from tsv_exp.data.examples import Examples, Kind
from tsv_exp.errors import UserError
from tsv_exp.models.text.benchmark import DATA, load, tasks
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import SplitName, Task


@dataclass(frozen=True)
class Packaged:
    """One of the packaged tasks (see `tsv_exp.data.examples.Source`), for any text model."""

    subject: str

    def __post_init__(self) -> None:
        if self.subject not in tasks():
            raise UserError(f"data.subject={self.subject}: no packaged task; choose from: {', '.join(tasks())}")

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts that fit the names of the classes."""
        return tuple(tasks()[self.subject]["templates"])

    def class_names(self, kind: Kind) -> Sequence[str]:
        """The classes in the order of the labels."""
        return tuple(tasks()[self.subject]["classes"])

    def has(self, split: SplitName) -> bool:
        """Every split is packaged."""
        return True

    def examples(self, task: Task, split: SplitName, kind: Kind) -> Examples:
        """The texts and labels of a split.

        Raises:
            UserError: the model does not encode text.
        """
        if kind != "text":
            raise UserError(f"task {task.name} has texts, but the model encodes {kind}s; choose a model of text")
        found = load(self.subject, split)
        return Examples(f"packaged task {self.subject}, {split}", torch.tensor(found.labels), found.texts.__getitem__)

    def identity(self) -> Any:
        """Digest of the packaged file."""
        return digest(self.subject, file_digest(DATA / f"{self.subject}.json.gz"))
