"""model=text2text: encoder-decoders such as T5 that generate the answer as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tsv_exp.models.text import network
from tsv_exp.models.text.base import IGNORED, Prompted
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Split, SplitName, Task

NONE = -1  # prediction that is not a class


@dataclass(eq=False, repr=False)
class TextToText(Prompted):
    """A network that generates the name of the class, or a value with one decimal, after the prompt.

    An answer is correct if it equals the class's name exactly; for values, an answer that is not a number counts as 0.

    Args:
        answer: the maximum number of generated tokens; the others: see `TransformersModel`.
    """

    exclude: Sequence[str] = ("shared.*", "*embed_tokens.*", "*relative_attention_bias.*")
    answer: int = 10

    def split(self, task: Task, split: SplitName) -> Split:
        """The tokens of prompts and texts; values are rounded to the precision of an answer."""
        found = super().split(task, split)
        labels = found.labels.mul(10).round() / 10 if found.labels.is_floating_point() else found.labels
        return Split(found.inputs, labels)

    def identity(self, task: Task) -> str:
        """Digest of the task's data and prompt, and of the tokenization."""
        return digest(self.data_identity(task), task.templates[:1], self.answer, self._reading)

    def first_pass(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """The states (B, L, d) of the encoder, which reads the prompt; the decoder has nothing to read yet."""
        read: Any = encoder.get_encoder()  # type: ignore[operator]
        states: Tensor = read(**batch).last_hidden_state
        return states

    def predict(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        """Class indices (B,), -1 if the generated text is not a class; or values (B,)."""
        special = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
        tokens = {name: getattr(self._config, name, None) for name in special}
        generate: Any = encoder.generate
        generated = generate(**batch, max_new_tokens=self.answer, do_sample=False, num_beams=1, **tokens)
        answers = [text.strip() for text in self._tokenizer.batch_decode(generated, skip_special_tokens=True)]
        if not task.classes:
            return torch.tensor([_value(answer) for answer in answers])
        places = {name: number for number, name in enumerate(task.classes)}
        return torch.tensor([places.get(answer, NONE) for answer in answers])

    def loss(self, encoder: nn.Module, batch: Any, labels: Tensor, task: Task) -> Tensor:
        """The cross-entropy of the answer's tokens, averaged over the tokens."""
        texts = [task.classes[label] if task.classes else f"{label:.1f}" for label in labels.tolist()]
        answers = self._tokenizer(text_target=texts)["input_ids"]
        rows = pad_sequence([torch.tensor(row) for row in answers], True, IGNORED).to(labels.device)
        found: Tensor = encoder(**batch, labels=rows).loss
        return found

    def _new(self) -> Any:
        return network.new_seq2seq(self._config)


def _value(answer: str) -> float:
    try:
        return float(answer)
    except ValueError:
        return 0.0
