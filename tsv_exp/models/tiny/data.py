"""The images of a task: drawn on demand, deterministic for a seed, different between splits."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch import Tensor

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
    """How many images a task has, the seed from which they are drawn, and how they differ from those of pre-training.

    Args:
        seed: the seed.
        train: number of training images, likewise validation and test.
        classes: a task has its first so many classes only: one number for all tasks, or task -> number; None: all.
        contrast: a value x in [0, 1] becomes 1/2 + contrast · (x − 1/2) + brightness, clipped to [0, 1].
        brightness: see contrast.
    """

    seed: int
    train: int = 3000
    validation: int = 200
    test: int = 500
    classes: int | Mapping[str, int] | None = None
    contrast: float = 1.0
    brightness: float = 0.0

    def __post_init__(self) -> None:
        own = self.classes if isinstance(self.classes, Mapping) else {}
        if unknown := own.keys() - TASKS.keys():
            raise UserError(f"model.data.classes.{min(unknown)}: unknown task; choose from: {', '.join(TASKS)}")
        checks = [(name, getattr(self, name), 1) for name in ("train", "validation", "test")]
        checks += [(f"classes.{task}", number, 2) for task, number in own.items()] or [("classes", self.classes, 2)]
        for name, value, least in checks:
            if value is not None and value < least:
                raise UserError(f"model.data.{name}={value}: give at least {least}")
        if not 0 < self.contrast <= 1:
            raise UserError(f"model.data.contrast={self.contrast}: give a number above 0, at most 1")
        if not -1 < self.brightness < 1:
            raise UserError(f"model.data.brightness={self.brightness}: give a number between -1 and 1")

    def number(self, task: str) -> int | None:
        """How many of its first classes a task has; None: all."""
        return self.classes.get(task) if isinstance(self.classes, Mapping) else self.classes

    def settings(self, task: str) -> dict[str, Any]:
        """Plain values, for digests; of the settings that change classes and images only those that are set."""
        plain = asdict(replace(self, classes=self.number(task)))
        unchanged = {"classes": None, "contrast": 1.0, "brightness": 0.0}
        return {name: value for name, value in plain.items() if name not in unchanged or value != unchanged[name]}

    def class_names(self, task: str) -> tuple[str, ...]:
        """The classes of a task."""
        return tuple(TASKS[task].classes)[: self.number(task)]

    def split(self, task: str, split: SplitName) -> Split:
        """One split: balanced classes in random order; every image is drawn separately."""
        seed = int(digest("tiny", self.seed, task, split)[:12], 16)
        generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
        subject = TASKS[task]
        count = getattr(self, split)
        labels = (torch.arange(count) % len(self.class_names(task)))[torch.randperm(count, generator=generator)]
        masks = draw(subject, labels, split, rng)
        ink = labels if subject.coloured else torch.randint(len(PALETTE), (count,), generator=generator)
        images = render(masks, ink, subject.style, generator, upright=subject.upright, faithful=subject.coloured)
        return Split(self._changed(images), labels)

    def _changed(self, images: Tensor) -> Tensor:
        """The images uint8 (N, 3, H, W) with contrast and brightness changed."""
        if (self.contrast, self.brightness) == (1.0, 0.0):
            return images
        values = 0.5 + self.contrast * (images / 255 - 0.5) + self.brightness
        return (values.clamp(0, 1) * 255).to(torch.uint8)


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
        return self.data.class_names(self.subject)

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
        return digest("drawn", self.subject, self.data.settings(self.subject), drawing_versions(), TINY_DATA)
