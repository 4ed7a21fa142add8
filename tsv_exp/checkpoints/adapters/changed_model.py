"""A base model with the changes of an adapter, as a mapping of names to weights."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.layers import LowRank


class ChangedModel(Mapping[str, Tensor]):
    """Has the names of its base; subclasses return the changed weights, and the changes as factors.

    `own_names` are the names of the weights in the adapter, without PEFT's prefix.
    """

    own_names: tuple[str, ...]

    def __init__(self, path: Path, base: Mapping[str, Tensor]) -> None:
        self.path, self._base = path, base

    def file_of(self, name: str) -> Path:
        """The adapter's folder, for error messages."""
        return self.path

    def _no_change(self, name: str, dtype: torch.dtype) -> LowRank:
        m, n = self._base[name].shape
        return LowRank(*(torch.zeros(shape, dtype=dtype) for shape in ((m, 0), (0,), (0, n))))

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def __contains__(self, name: object) -> bool:
        return name in self._base
