"""The decompositions that the engine's configuration names."""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from tsv_exp.config import Engine
from tsv_exp.decompositions import exact as linalg
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.decompositions.fast import FastAlgebra
from tsv_exp.decompositions.wrappers.batched import CPU, BatchedAlgebra
from tsv_exp.decompositions.wrappers.cached import CachedAlgebra, FactorCache
from tsv_exp.storage import files

log = logging.getLogger(__name__)


ALGEBRAS: dict[str, type[Algebra]] = {"auto": FastAlgebra, "exact": linalg.ExactAlgebra}


def build_algebra(engine: Engine, place: torch.device = CPU) -> Algebra:
    """The decompositions that `engine.svd` names; on a GPU in batches over layers."""
    computed, store = ALGEBRAS[engine.svd](), CACHES[engine.cache]()
    kept = computed if store is None else CachedAlgebra(computed, engine.svd, store)
    return BatchedAlgebra(kept, place) if place.type == "cuda" else kept


def log_fallbacks(used: Algebra) -> dict[str, int]:
    """Log how many decompositions could not be certified and were computed exactly; returns these counts."""
    while isinstance(used, (BatchedAlgebra, CachedAlgebra)):
        used = used.algebra
    if not isinstance(used, FastAlgebra):
        return {}
    if used.fallbacks:
        log.info("%d of %d decompositions were computed exactly", used.fallbacks, used.total)
    return {"decompositions": used.total, "computed_exactly": used.fallbacks}


@cache
def _memory() -> FactorCache:
    """The cache of this process."""
    return FactorCache()


def _disk() -> FactorCache:
    return _on_disk(files.cache_dir() / "factors")


@cache
def _on_disk(folder: Path) -> FactorCache:
    return FactorCache(folder)


CACHES: dict[str, Callable[[], FactorCache | None]] = {"off": lambda: None, "memory": _memory, "disk": _disk}
