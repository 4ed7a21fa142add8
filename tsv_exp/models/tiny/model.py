"""The embedded benchmark as a model of the framework."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsv_exp.checkpoints.sources import open_weights
from tsv_exp.data.examples import Source, check_names
from tsv_exp.data.splits import Holdout, split_examples
from tsv_exp.data.tasks import source_of
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.heads import zero_shot_head
from tsv_exp.models.images import CHUNK, Pictures
from tsv_exp.models.local_training import train_missing
from tsv_exp.models.locate import locate
from tsv_exp.models.protocol import Model
from tsv_exp.models.tiny import network
from tsv_exp.models.tiny.catalogue import TEMPLATES
from tsv_exp.models.tiny.data import Data, Drawn, drawing_versions
from tsv_exp.models.tiny.drawing.render import IMAGE
from tsv_exp.runtime.devices import resolve
from tsv_exp.runtime.parallel.threads import one_thread
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import cache_dir
from tsv_exp.tasks.definitions import Definition
from tsv_exp.tasks.task import Split, SplitName, Task
from tsv_exp.versions import FINETUNING, TINY_DATA, TINY_NETWORK

CPU = torch.device("cpu")


class TinyModel(Model):
    """A small CLIP; fine-tuning runs on the CPU and its results are cached.

    Args:
        data: images and classes of each synthetic task.
        finetune: the recipe.
        seed: seed of the fine-tuning.
        base: pre-trained weights; None: the packaged ones.
        gain: the matrices of the base are divided by it, with the same outputs (see `network.with_gain`).
        task_set: the task set from which `tasks=N` takes the first N.
        exclude: see `Model`.
        holdout: how validation images of tasks from files are drawn.
        checkpoints: fine-tuned models of tsv-finetune: a folder, or a mapping task -> path; None: trained on first use.
        name: the model's name in the configuration.
    """

    templates = TEMPLATES

    def __init__(
        self,
        data: Data,
        finetune: Recipe,
        seed: int = 0,
        base: str | None = None,
        task_set: str | None = "tiny",
        exclude: Sequence[str] = (),
        holdout: Holdout | None = None,
        checkpoints: str | Mapping[str, str] | None = None,
        name: str = "tiny",
        gain: float = 1.0,
    ):
        if not 0 < gain < math.inf:
            raise UserError(f"model.gain={gain}: give a positive number")
        self.name = name
        self.gain = gain
        self.checkpoints = checkpoints
        self.family = name if checkpoints is None else locate(checkpoints, name).family
        self.data = data
        self.finetune = finetune
        self.exclude = exclude
        self.seed = seed
        self.task_set = task_set
        self.holdout = holdout or Holdout()
        self.file = network.BASE if base is None else Path(base)
        self._splits: dict[tuple[str, SplitName], Split] = {}
        self._heads: dict[str, Tensor] = {}

    def task(self, name: str, definition: Definition) -> Task:
        """The task of a definition; a drawn one has the classes of `data`."""
        whole = super().task(name, definition)
        source = source_of(whole)
        if not isinstance(source, Drawn):
            return whole
        return replace(whole, classes=whole.classes[: self.data.number(source.subject)])

    @cached_property
    def _clip(self) -> Any:
        return network.pretrained_clip(self.file, self.gain)

    def check_base(self) -> None:
        """Check that the file of the base exists."""
        if not self.file.is_file():
            raise UserError(
                f"model.base={self.file}: no such file; write it with python -m tsv_exp.models.tiny.pretrain FILE"
            )

    def encoder(self) -> nn.Module:
        """A new image encoder with the base weights: (B, 3, 28, 28) -> (B, d); d is 64 in the packaged base."""
        encoder: nn.Module = deepcopy(self._clip.visual)
        return encoder

    def prepare(self, inputs: Tensor, device: torch.device) -> Tensor:
        """Convert uint8 images (B, 3, 28, 28) to the encoder's input."""
        return network.normalize(inputs.to(device))

    def head(self, task: Task) -> Tensor:
        """Class weights (C, d) from the prompts through the text tower.

        Raises:
            UserError: a word is not in the vocabulary.
        """
        if task.name not in self._heads:
            clip = self._clip
            scale = clip.logit_scale.exp().item()
            encode = lambda texts: clip.encode_text(network.tokenize(texts))  # noqa: E731
            try:
                with one_thread():
                    self._heads[task.name] = zero_shot_head(task, encode, scale)
            except KeyError as error:
                raise UserError(
                    f"task {task.name}: model={self.name} does not know the word {error} in its classes or templates; "
                    f"it knows {', '.join(network.vocabulary())}"
                ) from error
        return self._heads[task.name]

    def split(self, task: Task, split: SplitName) -> Split:
        """The images of one split: drawn, or read and resized to 28 × 28 pixels, on first use."""
        if (task.name, split) not in self._splits:
            source = source_of(task)
            if isinstance(source, Drawn):
                check_names(task, self.data.class_names(source.subject), f"data of {task.name} (drawn)")
                self._splits[task.name, split] = self.data.split(source.subject, split)
            else:
                self._splits[task.name, split] = self._read(task, source, split)
        return self._splits[task.name, split]

    def _read(self, task: Task, source: Source, split: SplitName) -> Split:
        record = cache_dir() / "tiny" / "validation" / f"{task.name}-{digest(source.identity())[:20]}.json"
        examples = split_examples(task, source, split, "image", self.holdout, record)
        pictures = Pictures(examples.picture, len(examples), IMAGE)
        chunks = [pictures[start : start + CHUNK] for start in range(0, len(examples), CHUNK)]
        return Split(torch.cat(chunks), examples.labels)

    def base(self) -> Mapping[str, Tensor]:
        """The base weights of the image encoder."""
        weights: Mapping[str, Tensor] = self._clip.visual.state_dict()
        return weights

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        """The fine-tuned weights by task: from given checkpoints, from the cache, or trained now."""
        if self.checkpoints is not None:
            located, base = locate(self.checkpoints, self.name), self.base()
            return {task.name: open_weights(located.path_of(task, self.name), base) for task in tasks}
        return train_missing(self, tasks, self.seed, cache_dir() / "tiny", self._key)

    def complete(self, weights: Mapping[str, Tensor], task: Task | None = None) -> dict[str, Tensor]:
        """The state dict of a whole small CLIP with this image encoder."""
        return {
            **network.base_weights(self.file, self.gain),
            **{f"visual.{name}": weight for name, weight in weights.items()},
        }

    def _key(self, task: Task) -> str:
        recipe = self.finetune.settings() | {"precision": str(resolve(self.finetune.precision, CPU))}
        return digest(
            self.identity(task), network.base_weights(self.file, self.gain), recipe, self.seed, FINETUNING, TINY_NETWORK
        )

    def identity(self, task: Task) -> str:
        """Digest of the task's data and head."""
        source = source_of(task)
        if not isinstance(source, Drawn):
            given: list[Any] = [task.name, source.identity(), asdict(self.holdout)]
            return digest(*given, task.classes, task.templates, TINY_DATA, self.head(task))
        drawn: list[Any] = [
            source.subject,
            task.classes,
            task.templates,
            self.data.settings(source.subject),
            drawing_versions(),
        ]
        return digest(*drawn, TINY_DATA, self.head(task))
