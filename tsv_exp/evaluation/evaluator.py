"""Scores merged models: one encoder stays on the device and is scored many times, on splits that are prepared once."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsv_exp.errors import UserError
from tsv_exp.evaluation.scores import Scores
from tsv_exp.merging.known import Vectors
from tsv_exp.merging.layer import Weights
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.devices import batch_size as automatic_batch_size
from tsv_exp.runtime.devices import mixed, resolve
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.metrics import metric
from tsv_exp.tasks.task import Split, SplitName, Task
from tsv_exp.versions import EVALUATION

log = logging.getLogger(__name__)

Forward = Callable[[nn.Module, Any], Tensor]  # an encoder, a prepared batch of B examples -> (B, ...)


def weights_digest(weights: Weights) -> str:
    """A digest of these weights: the reader's own if it has one, else the SHA-256 of names and values."""
    return getattr(weights, "digest", None) or digest(weights)


class Evaluator:
    """Scores θ_pre + α · τ on a model's tasks.

    Args:
        model: the encoder, its outputs and the data.
        tasks: the tasks to score.
        device: where the encoder runs.
        precision: of the encoder's matrix products: auto, bfloat16, float16 or float32; logits are float32.
        batch_size: examples per batch; None: by the device's free memory. Halved with a warning if memory runs out.
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
        self.batch_size = batch_size or automatic_batch_size(device)
        self._splits: dict[tuple[str, SplitName], Split] = {}
        self._scores = Scores()
        self._identities: dict[str, str] = {}
        self._loaded: tuple[Vectors | None, str | None] = (None, None)
        self._vector: dict[str, Tensor] = {}
        self._digested: tuple[Vectors | None, str | None, str] = (None, None, "")
        self._alpha: float | None = None

    @cached_property
    def encoder(self) -> nn.Module:
        """The encoder that all models are evaluated with, one after the other."""
        return self.model.encoder().to(self.device).eval().requires_grad_(False)

    @cached_property
    def _base(self) -> dict[str, Tensor]:
        merged = self.model.base()  # of parameters that are tied the encoder's state dict has more names
        state = self.encoder.state_dict()
        return {name: weight.detach().clone() for name, weight in state.items() if name in merged}

    @cached_property
    def _base_digest(self) -> str:
        return weights_digest(self.model.base())

    def counts(self, split: SplitName) -> dict[str, int]:
        """Task -> number of examples in a split."""
        return {name: len(self._split(name, split)) for name in self.tasks}

    def variances(self, accuracy: Mapping[str, float], split: SplitName) -> dict[str, float]:
        """Task -> sampling variance of its accuracy, binomial over the split's examples (see tasks/metrics.py)."""
        counts = self.counts(split)
        return {name: metric(self.tasks[name].metric).variance(value, counts[name]) for name, value in accuracy.items()}

    def accuracies(
        self, merged: Vectors, alpha: float, split: SplitName, dtype: torch.dtype | None = None
    ) -> dict[str, float]:
        """Task -> accuracy (a fraction) of the merged model at α, or of the task's model if there is one per task.

        For a task with another metric, its value takes the place of accuracy. `dtype` replaces the evaluator's.
        """
        with self._precision(dtype):
            return {name: self.accuracy(merged, alpha, name, split) for name in self.tasks}

    @contextmanager
    def _precision(self, dtype: torch.dtype | None) -> Iterator[None]:
        own, self.dtype = self.dtype, dtype or self.dtype
        try:
            yield
        finally:
            self.dtype = own

    def accuracy(self, merged: Vectors, alpha: float, task: str, split: SplitName) -> float:
        """The accuracy of one task's model at α, measured now or read from the cache."""
        key = self._key(merged, alpha, task, split)
        known = self._scores.get(key)
        return self._measure(key, merged, alpha, task, split)[0] if known is None else known

    def correct(self, merged: Vectors, alpha: float, task: str, split: SplitName) -> NDArray[np.bool_] | None:
        """Which examples (N,) of a split one task's model at α classifies correctly, measured or cached.

        None if labels are values, not classes.
        """
        labels = self._split(task, split).labels
        if labels.is_floating_point():
            return None
        key = self._key(merged, alpha, task, split)
        known = self._scores.correct(key, len(labels))
        return self._measure(key, merged, alpha, task, split)[1] if known is None else known

    def all_correct(self, merged: Vectors, alpha: float, split: SplitName) -> dict[str, NDArray[np.bool_]]:
        """`correct` of every task that has classes."""
        found = {task: self.correct(merged, alpha, task, split) for task in self.tasks}
        return {task: right for task, right in found.items() if right is not None}

    def predictions(
        self, merged: Vectors, alpha: float, model_of: str, task: str, split: SplitName, rows: Tensor
    ) -> Tensor:
        """Predicted classes (R,) with a task's head for some of its examples (R,), by the model of any task at α.

        They are computed now or read from the cache.
        """
        key = digest(self._key(merged, alpha, task, split, model_of), rows)
        known = self._scores.predictions(key)
        if known is not None:
            return torch.from_numpy(known)
        self._load_vector(merged, model_of)
        self._set_alpha(alpha)
        order = rows.argsort()  # that of the split, where neighbours have similar lengths
        found = self._forward(self._predictor(task), self._split(task, split).take(rows[order]), task)[order.argsort()]
        self._scores.put_predictions(key, found.numpy())
        return found

    def by_base(self, function: Forward, task: str, split: SplitName, count: int | None = None) -> Tensor:
        """The results (N, ...) on a split of a function of the base encoder and a prepared batch of B examples.

        Args:
            function: returns (B, ...).
            task: whose examples.
            split: which of them.
            count: the first so many of them; None: all.
        """
        self._set_alpha(0.0)
        found = self._split(task, split)
        return self._forward(
            function, found if count is None else found.take(torch.arange(min(count, len(found)))), task
        )

    def labels(self, task: str, split: SplitName) -> Tensor:
        """The labels (N,) of a split."""
        return self._split(task, split).labels

    @property
    def counts_examples(self) -> bool:
        """Whether the metric of every task is the share of examples whose prediction is right."""
        return all(metric(task.metric).mean for task in self.tasks.values())

    def _key(self, merged: Vectors, alpha: float, task: str, split: SplitName, model_of: str | None = None) -> str:
        """Digest of everything that a score depends on; by the model of the task itself or of another one."""
        owner = (model_of or task) if merged.per_task else None
        if self._digested[0] is not merged or self._digested[1] != owner:
            self._digested = (merged, owner, merged.digest(owner))
        return digest(self._identity(task), self._digested[2], float(alpha), split, str(self.dtype))

    def _measure(
        self, key: str, merged: Vectors, alpha: float, task: str, split: SplitName
    ) -> tuple[float, NDArray[np.bool_] | None]:
        self._load_vector(merged, task)
        self._set_alpha(alpha)
        labels = self._split(task, split).labels
        predictions = self._forward(self._predictor(task), self._split(task, split), task)
        value = metric(self.tasks[task].metric).measure(predictions, labels)
        correct = None if labels.is_floating_point() else (predictions == labels).numpy()
        self._scores.put(key, value, correct)
        return value, correct

    def _identity(self, task: str) -> str:
        """Digest of everything except the task vector that an accuracy, or another metric, depends on."""
        if task not in self._identities:
            named = self.tasks[task].metric
            other = [] if metric(named).mean else [named]
            self._identities[task] = digest(
                self.model.identity(self.tasks[task]), self._base_digest, EVALUATION, *other
            )
        return self._identities[task]

    def _split(self, name: str, split: SplitName) -> Split:
        if (name, split) not in self._splits:
            self._splits[name, split] = self.model.split(self.tasks[name], split)
        return self._splits[name, split]

    def _load_vector(self, merged: Vectors, task: str) -> None:
        """Load τ onto the device; it stays there while only α changes."""
        owner = task if merged.per_task else None
        if self._loaded[0] is not merged or self._loaded[1] != owner:
            self._vector = {name: tau.to(self.device) for name, tau in merged.vector(owner).items()}
            self._loaded, self._alpha = (merged, owner), None

    @torch.no_grad()
    def _set_alpha(self, alpha: float) -> None:
        """Set the encoder to θ_pre + α · τ in place."""
        if alpha == self._alpha:
            return
        state = self.encoder.state_dict()
        for name, base in self._base.items():
            tau, weight = self._vector.get(name), state[name]
            weight.copy_(base if tau is None else torch.add(base.to(tau.dtype), tau, alpha=alpha))
        self._alpha = alpha

    def _predictor(self, task: str) -> Forward:
        return lambda encoder, batch: self.model.predict(encoder, batch, self.tasks[task])

    def _forward(self, function: Forward, split: Split, task: str) -> Tensor:
        while True:
            try:
                return self._pass(function, split)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise UserError(
                        f"{self.device} is out of memory with one example of {task}; choose another device="
                    ) from None
                self.batch_size //= 2
                torch.cuda.empty_cache()
                log.warning("out of memory on %s: continuing with batches of %d", self.device, self.batch_size)

    @torch.inference_mode()
    def _pass(self, function: Forward, split: Split) -> Tensor:
        found = []
        for inputs, _ in split.batches(self.batch_size):
            batch = self.model.prepare(inputs, self.device)
            with mixed(self.dtype, self.device):
                found.append(function(self.encoder, batch))
        return torch.cat(found).cpu()
