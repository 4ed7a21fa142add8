"""CLIP as a model of the framework."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.checkpoints.sources import local, open_weights
from tsv_exp.config import EXCLUDE
from tsv_exp.data.splits import Holdout
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import PublishedRecipe, Recipe
from tsv_exp.models.clip import network
from tsv_exp.models.clip.data import Data
from tsv_exp.models.clip.names import Renamed, check_finite, clip_weights
from tsv_exp.models.clip.pretrained import Preprocessing, preprocessing, source_of, tokenizer
from tsv_exp.models.heads import zero_shot_head
from tsv_exp.models.locate import CheckpointLocations, locate
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.console import track
from tsv_exp.runtime.devices import device_of
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import cache_dir
from tsv_exp.storage.weight_cache import cached_weights
from tsv_exp.tasks.task import Split, SplitName, Task

log = logging.getLogger(__name__)


class ClipModel(Model):
    """A CLIP and its fine-tuned image encoders.

    Args:
        name: the model's name in the configuration.
        architecture: a name that open_clip knows, or a mapping with embed_dim, vision_cfg, text_cfg and quick_gelu.
        pretrained: path or repository of the whole CLIP (image and text encoder), or an open_clip tag (openai, ...).
        checkpoints: see `tsv_exp.models.locate.locate`.
        family: the family of checkpoints, which determines labels, prompts and published results; None: inferred from
            the layout of the checkpoints.
        device: where heads are computed.
        holdout: how validation images are drawn.
        cache_gb: see `tsv_exp.models.clip.data.Data`.
        task_set: the task set from which `tasks=N` takes the first N.
        exclude: see `Model`.
        finetune: see `Model`.
    """

    checkpoints: str | Mapping[str, str]
    templates = ("a photo of a {}.",)

    def __init__(
        self,
        name: str,
        architecture: network.Architecture,
        pretrained: str,
        checkpoints: str | Mapping[str, str],
        family: str | None = None,
        device: str = "auto",
        holdout: Holdout | None = None,
        cache_gb: float = 100.0,
        task_set: str | None = "clip",
        exclude: Sequence[str] = EXCLUDE,
        finetune: Recipe | None = None,
    ):
        self.name = name
        self.architecture = architecture
        self.pretrained = pretrained
        self.checkpoints = checkpoints
        self.device = device
        self.holdout = holdout or Holdout()
        self.cache_gb = cache_gb
        self.task_set = task_set
        self.exclude = exclude
        self.finetune = finetune or PublishedRecipe(lr=1e-5, steps=2000, weight_decay=0.1, trainable=("visual.*",))
        self._family = family
        self._splits: dict[tuple[str, SplitName], Split] = {}

    def check_base(self) -> None:
        """Check that `pretrained` is there, is a repository of the hub, or has the form of an open_clip tag."""
        if "/" in self.pretrained:
            local(self.pretrained)

    @cached_property
    def family(self) -> str:
        """The family of checkpoints: as configured, else inferred from their layout."""
        if self._family is None and self._located.missing is not None:
            raise UserError(self._located.missing)
        return self._family or self._located.family

    def encoder(self) -> nn.Module:
        """A new image encoder with the base weights: (B, 3, H, W) -> (B, d)."""
        return network.image_encoder(self.architecture, self.base(), self._located.base or self.pretrained)

    def prepare(self, inputs: Tensor, device: torch.device) -> Tensor:
        """Convert uint8 images (B, 3, H, W) to the encoder's input."""
        return network.normalize(
            inputs.to(device, non_blocking=True), self._preprocessing.mean, self._preprocessing.std
        )

    def head(self, task: Task) -> Tensor:
        """Class weights (C, d) from the prompts through the text tower; cached by prompts and tower."""
        tower = [self._clip.source.digest, str(self.architecture)]
        key = digest(task.classes, task.templates, tower)
        path = cache_dir() / "clip" / "heads" / f"{self.name}-{task.name}-{key[:20]}.safetensors"
        return cached_weights(path, key, lambda: {"head": self._zero_shot(task)})["head"]

    def _zero_shot(self, task: Task) -> Tensor:
        return zero_shot_head(task, self._encode_text, self._clip["logit_scale"].float().exp().item())

    def split(self, task: Task, split: SplitName) -> Split:
        """The images of one split: downloaded and preprocessed on first use."""
        if (task.name, split) not in self._splits:
            self._splits[task.name, split] = self._data.split(task, split)
        return self._splits[task.name, split]

    def base(self) -> Mapping[str, Tensor]:
        """The base weights of the image encoder, under open_clip's names."""
        return self._base

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        """The fine-tuned weights by task: lazy readers of downloaded or local files."""
        found: dict[str, Mapping[str, Tensor]] = {}
        for task in track(tasks, "fine-tuned checkpoints"):
            place = self._located.path_of(task, self.name)
            reader, where = _reader(place), f"checkpoint of {task.name} ({place})"
            found[task.name] = clip_weights(reader, where, self._base)
            self._warn_of_text_encoder(clip_weights(reader, where), where)
        return found

    def identity(self, task: Task) -> str:
        """Digest of the task's data and head, and of the normalization where it is not CLIP's."""
        own, usual = self._preprocessing, Preprocessing()
        other = [] if (own.mean, own.std) == (usual.mean, usual.std) else [own.mean, own.std]
        return digest(self._data.identity(task), self.head(task), *other)

    def complete(self, weights: Mapping[str, Tensor], task: Task | None = None) -> dict[str, Tensor]:
        """These weights with the base's text encoder: the state dict of a whole CLIP, as open_clip loads it."""
        return {**self._clip, **weights}

    def _warn_of_text_encoder(self, whole: Renamed, where: str) -> None:
        """Log if the text encoder of a checkpoint was fine-tuned too: it is ignored."""
        others = [name for name in whole.parts if not name.startswith("visual.") and name not in self._base]
        changed = [name for name in others if name in self._clip and not _same(whole[name], self._clip[name])]
        if changed:
            log.warning(
                "%s: its text encoder differs from the base's in %d tensors (%s, ...); only its image encoder is "
                "merged, and heads are computed by the base",
                where,
                len(changed),
                changed[0],
            )

    @cached_property
    def _located(self) -> CheckpointLocations:
        known = self.architecture if isinstance(self.architecture, str) else self.name
        return locate(self.checkpoints, known.removesuffix("-quickgelu"))

    @cached_property
    def _clip(self) -> Renamed:
        where = f"model.pretrained={self.pretrained}"
        weights = clip_weights(_reader(source_of(self.architecture, self.pretrained)), where)
        sides = {"the text encoder": ("token_embedding.", "text."), "logit_scale": ("logit_scale",)}
        for side, starts in sides.items():
            if not any(name.startswith(starts) for name in weights.parts):
                raise UserError(f"{where}: lacks {side}; expected a whole CLIP, image and text encoder")
        return weights

    @cached_property
    def _base(self) -> dict[str, Tensor]:
        if self._located.base is None:
            weights = {name: self._clip[name] for name in self._clip if name.startswith("visual.")}
        else:
            weights = dict(clip_weights(_reader(self._located.base), self._located.base))
        weights = {name: weight.float().contiguous() for name, weight in weights.items()}
        check_finite(weights, self._located.base or f"model.pretrained={self.pretrained}")
        return weights

    @cached_property
    def _data(self) -> Data:
        return Data(network.image_size(self.architecture), self.holdout, self.cache_gb, self._preprocessing.resize)

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return preprocessing(self.architecture, self.pretrained)

    @cached_property
    def _encode_text(self) -> Any:
        where = f"model.pretrained={self.pretrained}"
        tokenize = tokenizer(self.architecture, self.pretrained)
        return network.text_encoder(self.architecture, self._clip, tokenize, where, device_of(self.device))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def _reader(place: str) -> Reader:
    found = open_weights(place)
    assert isinstance(found, Reader)  # an adapter is refused without a base
    return found
