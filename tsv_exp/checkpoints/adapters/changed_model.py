"""A base model with the changes of an adapter, as a mapping of names to weights."""

from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.inputs.views import Sliced


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

    def sliced(self, name: str, index: int) -> Self:
        """The matrix at an index of one 3-D parameter."""
        one = copy(self)
        one._base = Sliced(self._base, name, index)
        return one

    def _no_b(self, name: str, reason: str) -> UserError:
        return UserError(
            f"{self.path}: no B of {name!r} is known ({reason}); leave this adapter out, or name the layer in exclude"
        )

    def _no_change(self, name: str, dtype: torch.dtype) -> LowRank:
        m, n = self._base[name].shape
        return LowRank(*(torch.zeros(shape, dtype=dtype) for shape in ((m, 0), (0,), (0, n))))

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def __contains__(self, name: object) -> bool:
        return name in self._base
