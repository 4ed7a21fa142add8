"""The splits of a task: test as published; validation and training images are drawn from train by a fixed seed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.models.clip import sources
from tsv_exp.models.clip.images import Pictures, store, stored
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import atomic, cache_dir
from tsv_exp.tasks.task import Split, SplitName, Task
from tsv_exp.versions import CLIP


@dataclass(frozen=True)
class Holdout:
    """Validation images: a share of train, but no more than `most`, drawn by `seed`; the rest is for training."""

    share: float = 0.1
    most: int = 5000
    seed: int = 0

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Ascending row numbers of training and of validation among `count` rows of train."""
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        held = max(1, min(int(self.share * count), self.most))
        return order[held:].sort().values, order[:held].sort().values


@dataclass(frozen=True)
class Data:
    """Images of any task at one size.

    Args:
        size: pixels of a side.
        holdout: how validation is drawn.
        cache_gb: how many gigabytes preprocessed images may take on disk; 0 keeps none.
        local: folders by task that replace the hub's data.
    """

    size: int
    holdout: Holdout = Holdout()
    cache_gb: float = 100.0
    local: Mapping[str, str] = field(default_factory=dict)

    def split(self, task: Task, split: SplitName) -> Split:
        """One split, from the cache of preprocessed images or from its source.

        Raises:
            UserError: the data cannot be had, read, or don't fit the task.
        """
        path = self._folder / f"{task.name}-{split}-{digest(self.identity(task), split)[:20]}.images"
        if self.cache_gb > 0 and (found := stored(path, self.size)):
            return found
        rows = sources.rows(task, "test" if split == "test" else "train", self._local(task))
        chosen = self._chosen(task, split, len(rows.labels))
        pictures = Pictures(lambda index: rows.picture(int(chosen[index])), len(chosen), self.size)
        return store(path, pictures, rows.labels[chosen], int(self.cache_gb * 1e9), f"images of {task.name}, {split}")

    def identity(self, task: Task) -> str:
        """Digest of what the images of a task depend on."""
        drawn = [self.holdout.share, self.holdout.most, self.holdout.seed]
        return digest(task.name, task.classes, sources.identity(task, self._local(task)), drawn, self.size, CLIP)

    def _chosen(self, task: Task, split: SplitName, count: int) -> Tensor:
        if split == "test":
            return torch.arange(count)
        train, validation = self.holdout.draw(count)
        record = cache_dir() / "clip" / "validation" / f"{task.name}-{self.identity(task)[:20]}.json"
        with atomic(record) as temporary:
            content = {"rows of train": count, "seed": self.holdout.seed, "validation": validation.tolist()}
            temporary.write_text(json.dumps(content), encoding="utf-8")
        return validation if split == "validation" else train

    def _local(self, task: Task) -> Path | None:
        return Path(self.local[task.name]).expanduser() if task.name in self.local else None

    @property
    def _folder(self) -> Path:
        return cache_dir() / "clip" / "images"
