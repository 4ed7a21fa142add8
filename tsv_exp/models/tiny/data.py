"""The images of a task: drawn on demand, deterministic for a seed, different between splits."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version

import torch
from PIL import Image

from tsv_exp.data.examples import Examples, Kind
from tsv_exp.errors import UserError
from tsv_exp.models.tiny.catalogue import TASKS, draw
from tsv_exp.models.tiny.drawing.render import PALETTE, render
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Split, SplitName, Task
from tsv_exp.versions import TINY_DATA


@cache
def drawing_versions() -> tuple[str, ...]:
    """Versions of the packages on which the drawn images depend."""
    return tuple(version(package) for package in ("matplotlib", "pillow", "scikit-learn"))


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
        """One split: balanced classes in random order; every image is drawn separately."""
        seed = int(digest("tiny", self.seed, task, split)[:12], 16)
        generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
        subject = TASKS[task]
        count = getattr(self, split)
        labels = (torch.arange(count) % len(subject.classes))[torch.randperm(count, generator=generator)]
        masks = draw(subject, labels, split, rng)
        ink = labels if subject.coloured else torch.randint(len(PALETTE), (count,), generator=generator)
        images = render(masks, ink, subject.style, generator, upright=subject.upright, faithful=subject.coloured)
        return Split(images, labels)


@dataclass(frozen=True)
class Drawn:
    """A synthetic task as a source of examples (see `tsv_exp.data.examples.Source`), for any model of images.

    `data` is the number of images; model=tiny uses its own `model.data` instead.
    """

    subject: str
    data: Data = field(default_factory=lambda: Data(2412))

    def __post_init__(self) -> None:
        if self.subject not in TASKS:
            raise UserError(f"data.subject={self.subject}: unknown subject; choose from: {', '.join(TASKS)}")

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts with the subject's wording."""
        return TASKS[self.subject].templates

    def class_names(self, kind: Kind) -> Sequence[str]:
        """The subject's classes."""
        return tuple(TASKS[self.subject].classes)

    def has(self, split: SplitName) -> bool:
        """Every split is drawn."""
        return True

    def examples(self, task: Task, split: SplitName, kind: Kind) -> Examples:
        """Images of 28 × 28 pixels.

        Raises:
            UserError: the model encodes texts.
        """
        where = f"data of {task.name} (drawn)"
        if kind != "image":
            raise UserError(f"{where}: these are images; choose a model of images, or other tasks")
        found = self.data.split(self.subject, split)
        return Examples(
            where,
            found.labels,
            lambda index: Image.fromarray(found.inputs[torch.tensor([index])][0].permute(1, 2, 0).numpy()),
        )

    def identity(self) -> str:
        """Digest of everything that the drawing depends on."""
        return digest("drawn", self.subject, asdict(self.data), drawing_versions(), TINY_DATA)
