"""Accuracies: one encoder stays on the device and is scored many times, with heads and images prepared once."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from tsv_exp.engine import Merged
from tsv_exp.errors import UserError
from tsv_exp.models import Model
from tsv_exp.precision import mixed, resolve
from tsv_exp.tasks import Split, SplitName, Task

log = logging.getLogger(__name__)

BATCH = {"cpu": 256, "cuda": 1024}


def device_of(wanted: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda:N` names.

    Raises:
        UserError: there is no such device here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(f"device={wanted}: no such device; choose auto, cpu or cuda:N") from error
    if device.type not in BATCH or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device={wanted}: there is none here ({torch.cuda.device_count()} CUDA devices); choose cpu")
    return device


class Scored(NamedTuple):
    """What a task vector is scored on: the task's class weights (C, d) and its images."""

    head: Tensor
    split: Split


class Evaluator:
    """Scores θ_pre + α · τ on a model's tasks.

    Args:
        model: gives the encoder, heads and images.
        tasks: what is scored.
        device: where.
        precision: auto, bfloat16, float16 or float32: of the encoder's matrix products; logits are float32.
        batch_size: images at a time; None picks by the device. Halved, and logged, when the device runs out of memory.
    """

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        device: torch.device,
        precision: str = "auto",
        batch_size: int | None = None,
    ):
        if batch_size is not None and batch_size < 1:
            raise UserError(f"evaluate.batch_size={batch_size}: give a positive number, or null")
        self.model = model
        self.tasks = {task.name: task for task in tasks}
        self.device = device
        self.dtype = resolve(precision, device)
        self.batch_size = batch_size or BATCH[device.type]
        self._prepared: dict[tuple[str, SplitName], Scored] = {}
        self._loaded: tuple[Merged | None, str | None] = (None, None)
        self._vector: dict[str, Tensor] = {}

    @cached_property
    def _encoder(self) -> nn.Module:
        return self.model.encoder().to(self.device).eval().requires_grad_(False)

    @cached_property
    def _base(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self._encoder.state_dict().items()}

    def counts(self, split: SplitName) -> dict[str, int]:
        """Task -> images in a split."""
        return {name: len(self._prepare(name, split).split) for name in self.tasks}

    def accuracies(self, merged: Merged, alpha: float, split: SplitName) -> dict[str, float]:
        """Task -> accuracy (a fraction) of the merged model at α, or of its own model where there is one per task."""
        if merged.per_task:
            return {name: self.accuracy(merged, alpha, name, split) for name in self.tasks}
        self._load(merged, alpha, None)
        return {name: self._correct(name, split) for name in self.tasks}

    def accuracy(self, merged: Merged, alpha: float, task: str, split: SplitName) -> float:
        """The accuracy of one task's model at α."""
        self._load(merged, alpha, task)
        return self._correct(task, split)

    def _prepare(self, name: str, split: SplitName) -> Scored:
        if (name, split) not in self._prepared:
            task = self.tasks[name]
            self._prepared[name, split] = Scored(self.model.head(task).to(self.device), self.model.split(task, split))
        return self._prepared[name, split]

    def _load(self, merged: Merged, alpha: float, task: str | None) -> None:
        """Set the encoder to θ_pre + α · τ in place; τ stays on the device while only α changes."""
        owner = task if merged.per_task else None
        if self._loaded[0] is not merged or self._loaded[1] != owner:
            self._vector = {name: tau.to(self.device) for name, tau in merged.vector(owner).items()}
            self._loaded = (merged, owner)
        base = self._base
        with torch.no_grad():
            for name, weight in self._encoder.state_dict().items():
                tau = self._vector.get(name)
                weight.copy_(base[name] if tau is None else torch.add(base[name].to(tau.dtype), tau, alpha=alpha))

    def _correct(self, name: str, split: SplitName) -> float:
        head, images = self._prepare(name, split)
        while True:
            try:
                return self._pass(head, images)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise UserError(
                        f"{self.device} has no room for one image of {name}; choose another device="
                    ) from None
                self.batch_size //= 2
                torch.cuda.empty_cache()
                log.warning("out of memory on %s: going on with batches of %d", self.device, self.batch_size)

    @torch.inference_mode()
    def _pass(self, head: Tensor, split: Split) -> float:
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for images, labels in split.batches(self.batch_size):
            batch = self.model.normalize(images.to(self.device, non_blocking=True))
            with mixed(self.dtype, self.device):
                features = self._encoder(batch)
            logits = unit(features.float(), dim=-1) @ head.T
            correct += (logits.argmax(1) == labels.to(self.device, non_blocking=True)).sum()
        return int(correct) / len(split)
