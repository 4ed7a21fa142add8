"""The interface of a model, for any modality: its encoder, outputs, data and checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tsv_exp.checkpoints.configuration import Configuration
from tsv_exp.data.examples import Examples, Kind
from tsv_exp.data.splits import Holdout, split_examples
from tsv_exp.data.tasks import source_of, task_of
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.heads import frozen_head_logits
from tsv_exp.models.locate import locate
from tsv_exp.runtime.devices import moved
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import cache_dir
from tsv_exp.tasks.definitions import Definition, define, task_names
from tsv_exp.tasks.task import Split, SplitName, Task


class Model(ABC):
    """A pre-trained encoder with its tasks; built from conf/model/<name>.yaml.

    Inputs are any nested structure of tensors that `split` and the encoder agree on: pixels, a tokenizer's dict, audio.
    Subclasses implement the abstract methods; the defaults are normalized features times a frozen head per task.

    Attributes:
        name: the model's name in the configuration.
        kind: the kind of its inputs, which a task's data must have.
        templates: default prompts of tasks.
        task_set: the task set from which `tasks=N` takes the first N.
        family: the family of its checkpoints (published results belong to one family).
        holdout: how validation examples are drawn from train if a task's data have none.
        own_heads: each checkpoint comes with the head of its task, which is saved with the merged encoder.
        checkpoints: where fine-tuned checkpoints are, as in `tsv_exp.models.locate.locate`; None: no place is given.
        exclude: name patterns of 2-D parameters that methods do not treat as matrices, unless engine.exclude is given.
        finetune: the recipe of tsv-finetune, unless finetune.* is given.
    """

    name: str
    family: Any  # a string, or a property if it is inferred
    kind: Kind = "image"
    templates: Sequence[str] = ("{}",)
    task_set: str | None = None
    holdout: Holdout = Holdout()
    own_heads: bool = False
    checkpoints: str | Mapping[str, str] | None = None
    exclude: Sequence[str] = ()
    finetune: Recipe = Recipe(lr=1e-5, steps=2000)

    def task(self, name: str, definition: Definition) -> Task:
        """The task of a definition, for this model."""
        return task_of(name, definition, self.family, self.templates, self.kind)

    def catalogue(self) -> dict[str, Task]:
        """All tasks of the model's task set by name, in order."""
        names = task_names(self.task_set, None)
        return {name: self.task(name, found) for name, found in zip(names, define(names, {}), strict=True)}

    def check_checkpoints(self) -> None:
        """Check that the folder of fine-tuned checkpoints exists, if one is named; nothing is read or downloaded.

        Raises:
            UserError: it does not exist.
        """
        if self.checkpoints is not None and (missing := locate(self.checkpoints, self.name).missing):
            raise UserError(missing)

    def check_base(self) -> None:  # noqa: B027 - a model may have no base that can be missing
        """Check that local base weights exist; nothing is read or downloaded.

        Raises:
            UserError: they do not exist.
        """

    @abstractmethod
    def encoder(self) -> nn.Module:
        """A new encoder with the base weights: a prepared batch of B examples -> features (B, d)."""

    @abstractmethod
    def split(self, task: Task, split: SplitName) -> Split:
        """The inputs and labels of one split."""

    @abstractmethod
    def base(self) -> Mapping[str, Tensor]:
        """The base weights: the state dict of `encoder()`."""

    @abstractmethod
    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        """The fine-tuned weights by task, with the keys of `base()`; trains or downloads what is missing."""

    @abstractmethod
    def identity(self, task: Task) -> str:
        """Digest of everything except the weights that a score on this task depends on: data, head, preprocessing."""

    def examples(self, task: Task, split: SplitName) -> Examples:
        """The examples of one split, before preprocessing: texts or images, and labels."""
        record = cache_dir() / "validation" / f"{task.name}-{self.data_identity(task)[:20]}.json"
        return split_examples(task, source_of(task), split, self.kind, self.holdout, record)

    def data_identity(self, task: Task) -> str:
        """Digest of where a task's examples come from, for `identity`."""
        drawn = [self.holdout.share, self.holdout.most, self.holdout.seed]
        return digest(task.name, task.classes, source_of(task).identity(), drawn)

    def prepare(self, inputs: Any, device: torch.device) -> Any:
        """Convert B inputs of a split to the encoder's input, on a device."""
        return moved(inputs, device)

    def head(self, task: Task) -> Tensor:
        """Class weights (C, d), float32, for the default `logits`."""
        raise NotImplementedError(f"{type(self).__name__} has neither a head nor logits of its own")

    def logits(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """Outputs (B, C), float32, of a prepared batch, under the caller's autocast.

        Args:
            encoder: `encoder()` with any weights, possibly wrapped for training on several devices.
            batch: the result of `prepare` for B examples.
            task: the task, for its head.
        """
        features = encoder(batch)
        return frozen_head_logits(features, self._placed_head(task, features.device))

    def first_pass(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """Run the base encoder once, for a router that reads its layers: outputs (B, ...) by which tasks are solved.

        Any task will do: the outputs tell on which tokens a prediction depends, not what is predicted.
        """
        return self.logits(encoder, batch, task)

    def predict(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """Predictions (B,) that the task's metric compares with the labels: by default the argmax."""
        return self.logits(encoder, batch, task).argmax(1)

    def trainee(self, task: Task) -> nn.Module:
        """The module that fine-tuning trains and passes to `loss`: the encoder, with a trainable head or without."""
        return self.encoder()

    def loss(self, encoder: nn.Module, batch: Any, labels: Tensor, task: Task) -> Tensor:
        """The loss of fine-tuning, averaged over the batch: by default cross-entropy with labels (B,)."""
        return cross_entropy(self.logits(encoder, batch, task), labels)

    def configuration(self, task: Task | None = None) -> Configuration | None:
        """Configuration files next to merged weights, if the library loads a folder; None if it loads one file.

        Args:
            task: the task whose head is saved with the weights, if `own_heads`.
        """
        return None

    def complete(self, weights: Mapping[str, Tensor], task: Task | None = None) -> dict[str, Tensor]:
        """Convert weights with the keys of `base()` to a state dict that the model's own library loads.

        Args:
            weights: the merged encoder.
            task: the task whose head is added, if `own_heads`.
        """
        return dict(weights)

    @torch.inference_mode(False)  # also in a pass in inference mode: a router's gradients need normal tensors
    def _placed_head(self, task: Task, device: torch.device) -> Tensor:
        key = (task.name, device)
        if key not in self._placed:
            self._placed[key] = self.head(task).to(device)
        return self._placed[key]

    @cached_property
    def _placed(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}
