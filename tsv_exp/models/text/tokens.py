"""Tokenized texts, padded on access to the longest text of the batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Text = str | tuple[str, ...]  # of one column, or of two


class Tokens:
    """N tokenized texts; indexing with a slice or row indices returns a tokenizer's dict of tensors (B, L)."""

    def __init__(self, columns: dict[str, list[Tensor]], padding: dict[str, int]):
        self.columns = columns
        self.padding = padding
        self.lengths = torch.tensor([len(row) for row in columns["input_ids"]])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: slice | Tensor) -> dict[str, Tensor]:
        rows = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        batch = {
            name: pad_sequence([column[row].long() for row in rows], True, self.padding.get(name, 0))
            for name, column in self.columns.items()
        }
        lengths = self.lengths[list(rows)]
        return batch | {"attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long()}

    def take(self, order: Tensor) -> "Tokens":
        """The texts at these row indices, in this order."""
        rows = order.tolist()
        return Tokens({name: [column[row] for row in rows] for name, column in self.columns.items()}, self.padding)


def tokenize(tokenizer: Any, texts: Sequence[Text], length: int) -> Tokens:
    """Tokenize texts, or pairs of texts, truncated to `length` tokens.

    Args:
        tokenizer: a transformers tokenizer.
        texts: single texts, or pairs.
        length: the maximum number of tokens of a text or pair.
    """
    rows = [(text,) if isinstance(text, str) else text for text in texts]
    parts = [[row[i] for row in rows] for i in range(len(rows[0]))]
    found = tokenizer(*parts, truncation=True, max_length=length, return_attention_mask=False)
    columns = {name: [torch.tensor(row, dtype=torch.int32) for row in column] for name, column in found.items()}
    return Tokens(columns, {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id})


def by_length(tokens: Tokens) -> Tensor:
    """Row indices sorted by length, so that batches need little padding."""
    return tokens.lengths.argsort(stable=True)
