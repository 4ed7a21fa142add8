"""model=causal_lm: language models that choose the most likely of a task's answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tsv_exp.errors import UserError
from tsv_exp.models.text import network
from tsv_exp.models.text.base import IGNORED, Prompted
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Task


@dataclass(eq=False, repr=False)
class CausalLM(Prompted):
    """A language model whose logits are the log-likelihoods of the classes' names after the prompt.

    The log-likelihood of an answer is the sum over its tokens. Arguments: see `TransformersModel`.
    """

    exclude: Sequence[str] = ("*embed_tokens.*", "*wte.*", "*wpe.*", "*embed_in.*", "*word_embeddings.*")

    def identity(self, task: Task) -> str:
        """Digest of the task's data, prompt and answers, and of the tokenization."""
        return digest(self.data_identity(task), task.templates[:1], task.classes, self._reading)

    def logits(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """Log-likelihoods (B, C), float32, of the classes' names after the prompts."""
        count = len(batch["input_ids"])
        return torch.stack(
            [-_surprise(encoder, batch, [answer] * count).sum(1) for answer in self._answers(task)], dim=1
        )

    def first_pass(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """Logits (B, V) of the token after the prompt."""
        rows = torch.arange(len(batch["input_ids"]), device=batch["input_ids"].device)
        found: Tensor = encoder(**batch).logits[rows, batch["attention_mask"].sum(1) - 1]
        return found

    def loss(self, encoder: nn.Module, batch: Any, labels: Tensor, task: Task) -> Tensor:
        """The cross-entropy of the correct answer's tokens after the prompt, averaged over the tokens."""
        answers = self._answers(task)
        found = _surprise(encoder, batch, [answers[label] for label in labels.tolist()])
        return found.sum() / sum(len(answers[label]) for label in labels.tolist())

    def _new(self) -> Any:
        return network.new_causal(self._config)

    def _answers(self, task: Task) -> list[list[int]]:
        """The tokens of each class name after a prompt."""
        if not task.classes:
            raise UserError(
                f"task {task.name}: a language model chooses among classes, but the task's metric needs values"
            )
        return [list(self._tokenizer(f" {name}", add_special_tokens=False)["input_ids"]) for name in task.classes]


def _surprise(encoder: nn.Module, batch: Mapping[str, Tensor], answers: Sequence[Sequence[int]]) -> Tensor:
    """-log p (B, L') of the tokens of one answer per prompt, given all before them; 0 elsewhere."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    rows, lengths = torch.arange(len(ids), device=ids.device), mask.sum(1)
    width = ids.shape[1] + max(map(len, answers))
    whole, seen = ids.new_zeros(len(ids), width), mask.new_zeros(len(ids), width)
    targets = torch.full_like(whole, IGNORED)
    whole[:, : ids.shape[1]], seen[:, : ids.shape[1]] = ids, mask
    for row, length, answer in zip(rows.tolist(), lengths.tolist(), answers, strict=True):
        places = slice(length, length + len(answer))
        whole[row, places] = targets[row, places] = torch.tensor(answer, device=ids.device)
        seen[row, places] = 1
    logits = encoder(input_ids=whole, attention_mask=seen).logits.float()
    return cross_entropy(logits[:, :-1].transpose(1, 2), targets[:, 1:], ignore_index=IGNORED, reduction="none")
