"""Merges that are made only when their weights are needed; what else is known of them is in the user's cache."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from tsv_exp.layers import LowRank
from tsv_exp.merging.engine import Merged
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import atomic, cache_dir


class Vectors(Protocol):
    """Merged task vectors: those of a `Merged`, or of a `KnownMerge`."""

    @property
    def per_task(self) -> bool:
        """Whether every task has a vector of its own."""
        ...

    def vector(self, task: str | None = None) -> dict[str, Tensor]:
        """The vector of all tasks, or of one: name -> (*shape)."""
        ...

    def digest(self, task: str | None = None) -> str:
        """The digest of `vector`."""
        ...


@dataclass(frozen=True)
class Facts:
    """What a run reports of a merge. `rank`: layer -> components per task, of layers that are low-rank factors."""

    per_task: bool
    base_bytes: int
    stored_bytes: int
    stored_bytes_without_base: int
    rank: Mapping[str, int]
    fallbacks: Mapping[str, int]

    @classmethod
    def of(cls, merged: Merged) -> "Facts":
        """The facts of a merge."""
        rank = {name: layer.s.shape[-1] for name, layer in merged.layers.items() if isinstance(layer, LowRank)}
        sizes = merged.base_bytes, merged.stored_bytes, merged.stored_bytes_without_base
        return cls(merged.per_task, *sizes, rank, merged.fallbacks)


class KnownMerge:
    """A merge by the digest of everything that it depends on.

    Facts and the digests of its task vectors are remembered, so that accuracies that are cached need no merge.

    Args:
        key: the digest; None: nothing is remembered.
        make: merges.
    """

    def __init__(self, key: str | None, make: Callable[[], Merged]) -> None:
        self._place = cache_dir() / "merges" / key[:2] / f"{key}.json" if key else None
        self._make = make
        self._last: tuple[str | None, dict[str, Tensor]] | None = None

    @cached_property
    def merged(self) -> Merged:
        """The merge itself."""
        return self._make()

    @cached_property
    def facts(self) -> Facts:
        """Remembered, or those of the merge."""
        return self._known[0] or Facts.of(self.merged)

    @property
    def per_task(self) -> bool:
        """See `Merged`."""
        return self.facts.per_task

    def vector(self, task: str | None = None) -> dict[str, Tensor]:
        """See `Merged`; the last one is kept."""
        if self._last is None or self._last[0] != task:
            self._last = None  # frees its memory first
            self._last = (task, self.merged.vector(task))
        return self._last[1]

    def digest(self, task: str | None = None) -> str:
        """The digest of a task vector, remembered or computed."""
        known, name = self._known[1], task or ""
        if name not in known:
            known[name] = digest(self.vector(task))
            if self._place and os.access(cache_dir(), os.W_OK):
                with atomic(self._place) as temporary:
                    temporary.write_text(json.dumps([asdict(self.facts), known]), encoding="utf-8")
        return known[name]

    @cached_property
    def _known(self) -> tuple[Facts | None, dict[str, str]]:
        try:
            facts, digests = json.loads(self._place.read_text(encoding="utf-8")) if self._place else (None, {})
            return (Facts(**facts), dict(digests)) if facts else (None, {})
        except (OSError, ValueError, TypeError):  # never made, or damaged
            return None, {}
