"""The base class of transformers' models: a folder with configuration, weights and tokenizer, and texts as inputs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsv_exp.checkpoints.adapters.lora import Adapter
from tsv_exp.checkpoints.configuration import Configuration
from tsv_exp.checkpoints.readers import Reader, file_digest
from tsv_exp.checkpoints.sources import folder_of, local, open_weights
from tsv_exp.checkpoints.sources import locate as locate_source
from tsv_exp.data.splits import Holdout
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.locate import CheckpointLocations, locate
from tsv_exp.models.protocol import Model
from tsv_exp.models.text import network
from tsv_exp.models.text.names import network_weights
from tsv_exp.models.text.tokens import Text, Tokens, by_length, tokenize
from tsv_exp.runtime.console import track
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Split, SplitName, Task

TOKENIZER = ("tokenizer*.json", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
IGNORED = -100  # a position that losses ignore
RECIPE = Recipe(lr=5e-5, steps=250, batch_size=32)


@dataclass(eq=False, repr=False)
class TransformersModel(Model):
    """A transformers network.

    Args:
        name: the model's name in the configuration.
        pretrained: folder or repository of the base: config.json, weights and tokenizer.
        checkpoints: see `tsv_exp.models.locate.locate`.
        length: the maximum number of tokens of a text.
        family: the family of its checkpoints; None: the pattern of their repositories, else the name.
        device: where frozen parts are computed.
        holdout: how validation examples are drawn if the data have none.
        task_set, exclude, finetune: see `Model`.
        sha256: expected SHA-256 of the base's weights file; None: not checked.
        validation: the maximum number of validation examples of a task; None: all.
    """

    kind = "text"

    name: str
    pretrained: str
    checkpoints: str | Mapping[str, str] | None
    length: int = 128
    family: str | None = None
    device: str = "auto"
    holdout: Holdout = field(default_factory=Holdout)
    task_set: str | None = None
    exclude: Sequence[str] = ()
    finetune: Recipe = RECIPE
    sha256: str | None = None
    validation: int | None = None

    def __post_init__(self) -> None:
        pattern = isinstance(self.checkpoints, str) and "*" in self.checkpoints
        self.family = self.family or (str(self.checkpoints) if pattern else self.name)
        self._splits: dict[tuple[str, SplitName], Split] = {}

    @abstractmethod
    def _new(self) -> Any:
        """The network of the configuration with random weights."""

    def encoder(self) -> nn.Module:
        """A new network with the base weights; a tokenizer's dict of tensors (B, L) -> transformers' output."""
        fresh: nn.Module = self._new()
        fresh.load_state_dict(dict(self.base()), strict=False)  # tied parameters occur once
        return fresh.eval().requires_grad_(False)

    def base(self) -> Mapping[str, Tensor]:
        """The base weights, under transformers' names."""
        return self._base

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        """The fine-tuned weights by task: lazy readers of downloaded or local files, including adapters."""
        found: dict[str, Mapping[str, Tensor]] = {}
        for task in track(tasks, "fine-tuned checkpoints"):
            source, where = self._checkpoint(task)
            found[task.name] = source if isinstance(source, Adapter) else self._weights(source, where)
        return found

    def split(self, task: Task, split: SplitName) -> Split:
        """The tokens of one split; validation and test are sorted by length to reduce padding."""
        if (task.name, split) not in self._splits:
            examples = self.examples(task, split)
            if split == "validation" and self.validation is not None:
                examples = examples.take(torch.arange(min(len(examples), self.validation)))
            tokens = self._tokens([self._input(task, examples.text(row)) for row in range(len(examples))])
            labels = examples.labels
            if split != "train":
                order = by_length(tokens)
                tokens, labels = tokens.take(order), labels[order]
            self._splits[task.name, split] = Split(tokens, labels)
        return self._splits[task.name, split]

    def configuration(self, task: Task | None = None) -> Configuration:
        """The base's configuration and tokenizer, with which transformers can load the folder."""
        return Configuration(self._folder, "float32", {"architectures": [type(self._new()).__name__]})

    def _input(self, task: Task, text: Text) -> Text:
        """The text that the model reads for an example."""
        return text

    def check_base(self) -> None:
        """Check that `pretrained` is there, or is a repository of the hub."""
        local(self.pretrained)

    @cached_property
    def _where(self) -> str:
        return f"model.pretrained={self.pretrained}"

    @cached_property
    def _folder(self) -> Path:
        folder = folder_of(locate_source(self.pretrained))
        if folder is None:
            raise UserError(f"{self._where}: expected a folder or repository with config.json, weights and tokenizer")
        return folder

    @cached_property
    def _config(self) -> Any:
        return network.configuration(self._folder, self._where)

    @cached_property
    def _tokenizer(self) -> Any:
        return network.tokenizer(self._folder, self._where)

    @cached_property
    def _prefix(self) -> str:
        return str(self._new().base_model_prefix)

    @cached_property
    def _base(self) -> dict[str, Tensor]:
        source = open_weights(self._folder)
        assert isinstance(source, Reader)  # an adapter is refused without a base
        if self.sha256 is not None and (found := file_digest(source.path)) != self.sha256:
            raise UserError(f"{source.path}: SHA-256 is {found}, but model.sha256={self.sha256}; fetch it again")
        return {name: weight.float().contiguous() for name, weight in self._weights(source, self._where).items()}

    @cached_property
    def _shapes(self) -> dict[tuple[str, ...], Any]:
        """All names of each parameter (several if it is tied) -> its shape."""
        return network.shapes(self._new())

    def _weights(self, source: Reader, where: str) -> Mapping[str, Tensor]:
        return network_weights(source, self._shapes, self._prefix, where)

    @cached_property
    def _reading(self) -> str:
        """Digest of the tokenization."""
        files = sorted({path for pattern in TOKENIZER for path in self._folder.glob(pattern)})
        return digest([(path.name, file_digest(path)) for path in files], self.length)

    @cached_property
    def _located(self) -> CheckpointLocations:
        assert self.checkpoints is not None
        return locate(self.checkpoints, self.name)

    def _checkpoint(self, task: Task) -> tuple[Any, str]:
        place = self._located.path_of(task, self.name)
        return open_weights(place, self._base), f"checkpoint of {task.name} ({place})"

    def _tokens(self, texts: Sequence[Text]) -> Tokens:
        return tokenize(self._tokenizer, texts, self.length)


@dataclass(eq=False, repr=False)
class Prompted(TransformersModel):
    """A network that reads prompts: a task's first template, in which {} is replaced by its texts, in order."""

    length: int = 512

    def _input(self, task: Task, text: Text) -> Text:
        return task.templates[0].format(*([text] if isinstance(text, str) else text))
