"""Weights seen otherwise than they are stored, and read when they are asked for."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from tsv_exp.merging.layer import Weights


class View(Mapping[str, Tensor]):
    """Weights under names of its own; files are those of the weights."""

    def __init__(self, weights: Weights, names: Mapping[str, str]) -> None:
        self._weights, self._names = weights, names
        self.path: Path | None = getattr(weights, "path", None)

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    @property
    def file_of(self) -> Callable[[str], Path] | None:
        """The file of a tensor, or None if the weights are not in a file."""
        known = getattr(self._weights, "file_of", None)
        return known and (lambda name: known(self._names.get(name, name)))


class Renamed(View):
    """Weights under other names: `names` maps each to that of the weights."""


class Sliced(View):
    """The matrix at an index of one 3-D parameter."""

    def __init__(self, weights: Weights, name: str, index: int) -> None:
        super().__init__(weights, {name: name})
        self._index = index

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name)[self._index]
