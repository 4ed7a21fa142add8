"""A BERT-like transformers encoder as a model of the framework."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tsv_exp.checkpoints.adapters.lora import Adapter
from tsv_exp.checkpoints.configuration import Configuration
from tsv_exp.data.splits import Holdout
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.heads import frozen_head_logits, zero_shot_head
from tsv_exp.models.local_training import train_missing, without_dropout
from tsv_exp.models.text import network
from tsv_exp.models.text.base import RECIPE, TransformersModel
from tsv_exp.models.text.names import head_weights
from tsv_exp.models.text.trained_heads import class_order
from tsv_exp.runtime.devices import device_of, resolve
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import cache_dir
from tsv_exp.storage.weight_cache import cached_weights
from tsv_exp.tasks.task import Task
from tsv_exp.versions import FINETUNING

PROMPTS_AT_ONCE = 256


class TextEncoder(TransformersModel):
    """An encoder with frozen heads built from class prompts, or with a trained classifier per task.

    Args:
        name, pretrained, length, family, device, holdout, task_set, exclude, finetune, sha256, validation: see
            `TransformersModel`.
        checkpoints: likewise; with head=classifier each one includes its head. None: trained with the recipe `finetune`
            and cached, for frozen heads only.
        head: prompts (class prompts through the frozen base) or classifier (AutoModelForSequenceClassification's).
        pooling: for frozen heads: mean (over the tokens) or cls (the first token).
        scale: scale of the logits of a frozen head.
        seed: seed of locally trained checkpoints.
    """

    def __init__(
        self,
        name: str,
        pretrained: str,
        checkpoints: str | Mapping[str, str] | None,
        head: Literal["prompts", "classifier"] = "prompts",
        pooling: network.Pooling = "mean",
        length: int = 128,
        scale: float = 20.0,
        family: str | None = None,
        device: str = "auto",
        holdout: Holdout | None = None,
        task_set: str | None = None,
        exclude: Sequence[str] = ("*embeddings.*",),
        finetune: Recipe = RECIPE,
        sha256: str | None = None,
        seed: int = 0,
        validation: int | None = None,
    ):
        for key, value, known in (("head", head, ("prompts", "classifier")), ("pooling", pooling, ("mean", "cls"))):
            if value not in known:
                raise UserError(f"model.{key}={value}: choose from: {', '.join(known)}")
        if checkpoints is None and head != "prompts":
            raise UserError("model.checkpoints=null trains for frozen heads only; give head=prompts or checkpoints")
        super().__init__(
            name,
            pretrained,
            checkpoints,
            length,
            family,
            device,
            holdout or Holdout(),
            task_set,
            exclude,
            finetune,
            sha256,
            validation,
        )
        self.seed = seed
        self.own_heads = head == "classifier"
        self.pooling = pooling
        self.scale = scale
        self._trained_heads: dict[str, network.TrainedHead] = {}

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        """The fine-tuned weights of the encoder by task: from files, or trained locally if none are configured."""
        if self.checkpoints is not None:
            return super().finetuned(tasks)
        return train_missing(self, tasks, self.seed, cache_dir() / "text" / "finetuned" / self.name, self._key)

    def identity(self, task: Task) -> str:
        """Digest of the task's data and head, and of the tokenization."""
        return digest(self._trained_on(task), self.validation)

    def _trained_on(self, task: Task) -> str:
        head = self._checkpoint(task)[0].digest if self.own_heads else self.head(task)
        return digest(self.data_identity(task), head, self.pooling, self.scale, self._reading)

    def _key(self, task: Task) -> str:
        """Digest of everything that the weights of a locally trained checkpoint depend on."""
        recipe = self.finetune.settings() | {"precision": str(resolve(self.finetune.precision, torch.device("cpu")))}
        return digest(self._trained_on(task), self._base_digest, recipe, self.seed, FINETUNING)

    def head(self, task: Task) -> Tensor:
        """Class weights (C, d) from the prompts through the frozen base; cached by prompts and base."""
        key = digest(task.classes, task.templates, self._base_digest, self._reading, self.pooling, self.scale)
        path = cache_dir() / "text" / "heads" / f"{self.name}-{task.name}-{key[:20]}.safetensors"
        return cached_weights(path, key, lambda: {"head": zero_shot_head(task, self._encode, self.scale)})["head"]

    def logits(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """Outputs (B, C), float32, by the frozen or the trained head of the task."""
        outputs = encoder(**batch)
        if self.own_heads:
            return self._trained_head(task, outputs.last_hidden_state.device)(outputs, batch)
        features = network.pooled(outputs.last_hidden_state.float(), batch["attention_mask"], self.pooling)
        return frozen_head_logits(features, self._placed_head(task, features.device))

    def predict(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """Predictions (B,): the argmax, or the value if the task has no classes."""
        logits = self.logits(encoder, batch, task)
        return logits.argmax(1) if task.classes else logits[:, 0]

    def trainee(self, task: Task) -> nn.Module:
        """The encoder; with head=classifier followed by a new head with random weights."""
        if self.checkpoints is None:
            return without_dropout(self.encoder())
        if not self.own_heads:
            return self.encoder()
        fresh = network.new_classifier(self._config, len(task.classes) or 1)
        getattr(fresh, self._prefix).load_state_dict(dict(self.base()))
        return fresh

    def loss(self, encoder: nn.Module, batch: Any, labels: Tensor, task: Task) -> Tensor:
        """Cross-entropy, or the mean squared error if labels are values."""
        logits = encoder(**batch).logits.float() if self.own_heads else self.logits(encoder, batch, task)
        return cross_entropy(logits, labels) if task.classes else mse_loss(logits[:, 0], labels)

    def configuration(self, task: Task | None = None) -> Configuration:
        """The base's configuration and tokenizer; with a task, those of a classifier of its classes."""
        found = super().configuration()
        if task is None:
            return found
        source, where = self._checkpoint(task)
        fresh = network.new_classifier(self._config, len(task.classes) or 1)
        text = network.classifier_configuration(fresh, task.classes, class_order(source.path, task, where).tolist())
        return replace(found, replaced={"config.json": text.encode()})

    def complete(self, weights: Mapping[str, Tensor], task: Task | None = None) -> dict[str, Tensor]:
        """The encoder; with a task, followed by the head of its checkpoint."""
        if task is None:
            return dict(weights)
        return {f"{self._prefix}.{name}": value for name, value in weights.items()} | self._head_weights(task)

    def _new(self) -> Any:
        if not self.own_heads:
            return network.new_encoder(self._config)
        whole = network.new_classifier(self._config, 2)
        return getattr(whole, whole.base_model_prefix)

    @cached_property
    def _base_digest(self) -> str:
        return digest(self._base)

    @cached_property
    def _frozen(self) -> nn.Module:
        return self.encoder().to(device_of(self.device))

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> Tensor:
        tokens, found = self._tokens(prompts), []
        for start in range(0, len(tokens), PROMPTS_AT_ONCE):
            batch = self.prepare(tokens[start : start + PROMPTS_AT_ONCE], device_of(self.device))
            hidden = self._frozen(**batch).last_hidden_state
            found.append(network.pooled(hidden, batch["attention_mask"], self.pooling).cpu())
        return torch.cat(found)

    @torch.inference_mode(False)  # as for `_placed_head`
    def _trained_head(self, task: Task, device: torch.device) -> network.TrainedHead:
        if task.name not in self._trained_heads:
            source, where = self._checkpoint(task)
            weights = self._head_weights(task)
            fresh = network.new_classifier(self._config, len(task.classes) or 1)
            order = class_order(source.path, task, where)
            self._trained_heads[task.name] = network.TrainedHead(fresh, weights, order, where)
        return self._trained_heads[task.name].to(device)

    def _head_weights(self, task: Task) -> dict[str, Tensor]:
        source, where = self._checkpoint(task)
        if isinstance(source, Adapter):
            raise UserError(f"{where}: an adapter contains no known classifier; give the merged model")
        return head_weights(source, self._prefix)
