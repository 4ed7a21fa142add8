"""The embedded benchmark as a model of the framework."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsv_exp.finetuning.training import Recipe, finetune
from tsv_exp.models.heads import zero_shot_head
from tsv_exp.models.protocol import Model
from tsv_exp.models.tiny import network
from tsv_exp.models.tiny.catalogue import TASKS
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.zoo import cached
from tsv_exp.runtime.console import bar
from tsv_exp.runtime.devices import resolve
from tsv_exp.runtime.threads import one_thread
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Split, SplitName, Task
from tsv_exp.versions import FINETUNING, TINY_DATA, TINY_NETWORK

CPU = torch.device("cpu")
DRAWING_PACKAGES = ("matplotlib", "pillow", "scikit-learn")


class TinyModel(Model):
    """A small CLIP with 20 synthetic tasks; fine-tuning runs on the CPU and its results are cached."""

    name = "tiny"
    family = "tiny"

    def __init__(
        self, data: Data, finetune: Recipe, seed: int = 0, base: str | None = None, exclude: Sequence[str] = ()
    ):
        self.data = data
        self.finetune = finetune
        self.exclude = exclude
        self.seed = seed
        self.file = network.BASE if base is None else Path(base)
        self._splits: dict[tuple[str, SplitName], Split] = {}
        self._heads: dict[str, Tensor] = {}

    @cached_property
    def _clip(self) -> Any:
        return network.pretrained_clip(self.file)

    def catalogue(self) -> dict[str, Task]:
        """All 20 tasks; the first 8 and 14 are the smaller sets."""
        return {name: Task(name, tuple(subject.classes), subject.templates) for name, subject in TASKS.items()}

    def encoder(self) -> nn.Module:
        """A fresh image encoder with the base weights: (B, 3, 28, 28) -> (B, 64)."""
        encoder: nn.Module = network.new_clip().visual
        encoder.load_state_dict(self.base())
        return encoder.eval().requires_grad_(False)

    def prepare(self, inputs: Tensor, device: torch.device) -> Tensor:
        """uint8 images (B, 3, 28, 28) as the encoder takes them."""
        return network.normalize(inputs.to(device))

    def head(self, task: Task) -> Tensor:
        """Class weights (C, 64) from the prompts through the text tower."""
        if task.name not in self._heads:
            clip = self._clip
            scale = clip.logit_scale.exp().item()
            with one_thread():
                self._heads[task.name] = zero_shot_head(
                    task, lambda texts: clip.encode_text(network.tokenize(texts)), scale
                )
        return self._heads[task.name]

    def split(self, task: Task, split: SplitName) -> Split:
        """The images of one split, drawn on first use."""
        if (task.name, split) not in self._splits:
            self._splits[task.name, split] = self.data.split(task.name, split)
        return self._splits[task.name, split]

    def base(self) -> Mapping[str, Tensor]:
        """The base weights of the image encoder."""
        weights: Mapping[str, Tensor] = self._clip.visual.state_dict()
        return weights

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        """The fine-tuned weights by task: from the cache, or trained now."""
        found = {}
        with bar("fine-tuned checkpoints", len(tasks) * self.finetune.steps) as (progress, done):
            for number, task in enumerate(tasks, start=1):
                progress.update(done, description=f"fine-tuned checkpoints: {task.name}")
                train = partial(self._train, task, partial(progress.advance, done))
                found[task.name] = cached(task.name, self._key(task), train)
                progress.update(done, completed=number * self.finetune.steps)
        return found

    def complete(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a whole small CLIP with this image encoder."""
        return {**network.base_weights(self.file), **{f"visual.{name}": weight for name, weight in weights.items()}}

    def _train(self, task: Task, advance: Callable[[], object]) -> Mapping[str, Tensor]:
        encoder, loss = self.encoder(), partial(self.loss, task=task)
        torch.set_flush_denormal(True)
        with one_thread():
            finetune(encoder, loss, self.prepare, self.split(task, "train"), self.finetune, self.seed, advance=advance)
        return encoder.state_dict()

    def _key(self, task: Task) -> str:
        recipe = asdict(self.finetune) | {
            "trainable": list(self.finetune.trainable),
            "precision": str(resolve(self.finetune.precision, CPU)),
        }
        return digest(self.identity(task), network.base_weights(self.file), recipe, self.seed, FINETUNING, TINY_NETWORK)

    def identity(self, task: Task) -> str:
        """Digest of the task's data and head."""
        drawn = [version(package) for package in DRAWING_PACKAGES]
        return digest(task.name, task.classes, task.templates, asdict(self.data), drawn, TINY_DATA, self.head(task))
