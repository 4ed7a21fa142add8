"""The images of a task: drawn on demand, the same for the same seed, different between splits."""

import random
from dataclasses import dataclass

import torch

from tsv_exp.errors import UserError
from tsv_exp.models.tiny.catalogue import TASKS, draw
from tsv_exp.models.tiny.drawing.render import PALETTE, render
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Split, SplitName


@dataclass(frozen=True)
class Data:
    """How many images a task has, and the seed from which they are drawn."""

    seed: int
    train: int = 3000
    validation: int = 200
    test: int = 500

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            if getattr(self, name) < 1:
                raise UserError(f"model.data.{name}={getattr(self, name)}: give at least 1")

    def split(self, task: str, split: SplitName) -> Split:
        """One split: classes as even as they can be, in random order; every picture is drawn anew."""
        seed = int(digest("tiny", self.seed, task, split)[:12], 16)
        generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
        subject = TASKS[task]
        count = getattr(self, split)
        labels = (torch.arange(count) % len(subject.classes))[torch.randperm(count, generator=generator)]
        masks = draw(subject, labels, split, rng)
        ink = labels if subject.coloured else torch.randint(len(PALETTE), (count,), generator=generator)
        images = render(masks, ink, subject.style, generator, upright=subject.upright, faithful=subject.coloured)
        return Split(images, labels)
