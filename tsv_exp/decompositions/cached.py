"""Decompose once, cut many: singular factors kept in memory within a process and on disk between processes."""

import logging
import os
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.layers import LowRank
from tsv_exp.storage import files
from tsv_exp.storage.digests import digest
from tsv_exp.storage.weight_cache import read_verified, write_verified
from tsv_exp.versions import DECOMPOSITIONS

log = logging.getLogger(__name__)

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4  # bytes of factors a process keeps
DISK = 16 << 30  # bytes of factors the cache folder keeps


def numerics() -> str:
    """What computes: the version of the decompositions and of the libraries below them."""
    return digest(DECOMPOSITIONS, torch.__version__, np.__version__)


@dataclass
class FactorCache:
    """Factors by key: the most recently used in memory, and in `folder` where there is one.

    A file that is not what was written there is made again. Only one process writes at a time, so that it
    can clear away what killed ones left.
    """

    folder: Path | None = None
    memory: int = MEMORY
    disk: int = DISK
    _in_memory: OrderedDict[str, LowRank] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)
    _overflowed: bool = False

    def get(self, key: str) -> LowRank | None:
        """The factors of a key, or None."""
        with self._lock:
            if key in self._in_memory:
                self._in_memory.move_to_end(key)
                return self._in_memory[key]
        if self.folder is None or not (path := self._path(key)).is_file():
            return None
        stored = read_verified(path, key)
        if stored is None:
            log.warning("%s is damaged and is made again", path)
            return None
        with suppress(OSError):  # another process may have evicted it meanwhile
            os.utime(path)
        factors = LowRank(**{name: part.clone() for name, part in stored.items()})
        self._remember(key, factors)
        return factors

    def put(self, key: str, factors: LowRank) -> None:
        """Keep factors; the least recently used give way."""
        self._remember(key, factors)
        if self.folder is not None:
            with files.locked(self.folder / "writing"):
                files.clear_partial_files(self.folder, "*.safetensors")
                write_verified(self._path(key), key, factors._asdict())
                self._evict(self.folder)

    def alone(self, key: str) -> AbstractContextManager[None]:
        """No two processes that share `folder` make the same factors at once."""
        return nullcontext() if self.folder is None else files.locked(self.folder / "locks" / key[:2])

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"

    def _remember(self, key: str, factors: LowRank) -> None:
        with self._lock:
            self._in_memory[key] = factors
            self._in_memory.move_to_end(key)
            while len(self._in_memory) > 1 and sum(_bytes(held) for held in self._in_memory.values()) > self.memory:
                if self.folder is None and not self._overflowed:
                    log.warning("factors exceed %.1f GB and are made again; engine.cache=disk", self.memory / 1e9)
                    self._overflowed = True
                self._in_memory.popitem(last=False)

    def _evict(self, folder: Path) -> None:
        used = sorted((file.stat().st_mtime_ns, file.stat().st_size, file) for file in folder.glob("*.safetensors"))
        total = sum(size for _, size, _ in used)
        for _, size, file in used[:-1]:
            if total <= self.disk:
                return
            file.unlink(missing_ok=True)
            total -= size


@dataclass
class CachedAlgebra:
    """An algebra whose singular factors are kept, by the bytes of the matrix and all that computes them.

    The default number of components is decomposed as it is; any other is cut from the whole decomposition, so that a
    sweep over ranks decomposes once, and its results do not depend on what happened to be kept.
    """

    algebra: Algebra
    name: str
    store: FactorCache
    _numerics: str = field(default_factory=numerics)

    def truncated_svd(self, matrices: Tensor, k: int) -> LowRank:
        """The top k singular components, as `linalg.truncated_svd`."""
        m, n = matrices.shape[-2:]
        flat = matrices.reshape(-1, m, n)
        tasks = matrices.shape[-3] if matrices.dim() > 2 else 1
        count = k if k == min(m, n) // tasks else min(m, n)
        keys = [self._key(matrix, count) for matrix in flat]
        found = self._known(keys)
        if len(found) < len(keys):
            with self.store.alone(keys[0]):
                found = self._known(keys)  # another process may have made them meanwhile
                if missing := [i for i in range(len(flat)) if i not in found]:
                    made = self.algebra.truncated_svd(flat[missing], count)
                    for i, *parts in zip(missing, *made, strict=True):
                        found[i] = LowRank(*(part.cpu().clone() for part in parts))
                        self.store.put(keys[i], found[i])
        cut = (LowRank(f.u[:, :k], f.s[:k], f.vh[:k]) for _, f in sorted(found.items()))
        u, s, vh = (torch.stack(parts).to(matrices.device) for parts in zip(*cut, strict=True))
        batch = matrices.shape[:-2]
        return LowRank(u.view(*batch, m, -1), s.view(*batch, -1), vh.view(*batch, -1, n))

    def _key(self, matrix: Tensor, k: int) -> str:
        return digest(self.name, self._numerics, matrix.device.type, k, matrix)

    def _known(self, keys: list[str]) -> dict[int, LowRank]:
        return {i: factors for i, key in enumerate(keys) if (factors := self.store.get(key)) is not None}

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors, as `linalg.polar`; they are not kept, since each belongs to one rank."""
        return self.algebra.polar(matrices)


def _bytes(factors: LowRank) -> int:
    return sum(part.numel() * part.element_size() for part in factors)
