"""A cache of singular factors, in memory within a process and on disk between processes."""

import logging
import os
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.decompositions.numerics import Matrices, whole
from tsv_exp.layers import LowRank
from tsv_exp.storage import files
from tsv_exp.storage.digests import digest
from tsv_exp.storage.weight_cache import read_verified, write_verified
from tsv_exp.versions import DECOMPOSITIONS

log = logging.getLogger(__name__)

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4  # limit of the cache in memory, in bytes
SMALLEST_SET = 8  # tasks of the papers' smallest set, which has the largest default rank of their sets
FEWEST = 3  # tasks from which decomposing at the default rank is cheaper than the full decomposition
DISK = 16 << 30  # limit of the cache on disk, in bytes
PATIENCE = 60.0  # seconds to wait for another process that computes the same factors: it may be suspended


def numerics() -> str:
    """Digest of the versions of the decompositions and of the libraries that they call."""
    return digest(DECOMPOSITIONS, torch.__version__, np.__version__)


@dataclass
class FactorCache:
    """Factors by key: the most recently used in memory, and in `folder` where there is one.

    A damaged file is computed again. Only one process writes at a time, so it can remove the temporary files of
    killed processes.
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
            log.warning("%s is damaged and is recomputed", path)
            return None
        with suppress(OSError):  # another process may have evicted it meanwhile
            os.utime(path)
        factors = LowRank(**{name: part.clone() for name, part in stored.items()})
        self._remember(key, factors)
        return factors

    def put(self, key: str, factors: LowRank) -> None:
        """Store factors; the least recently used entries are evicted."""
        self._remember(key, factors)
        if self.folder is not None and self._writable:
            with files.locked(self.folder / "writing", PATIENCE) as held:
                if not held:
                    return
                files.clear_partial_files(self.folder, "*.safetensors")
                write_verified(self._path(key), key, factors._asdict())
                self._evict(self.folder)

    def alone(self, key: str) -> AbstractContextManager[object]:
        """A lock: two processes that share `folder` compute the same factors at once only if one is suspended."""
        if self.folder is None or not self._writable:
            return nullcontext()
        return files.locked(self.folder / "locks" / key[:2], PATIENCE)

    @cached_property
    def _writable(self) -> bool:
        """Whether factors can be stored; a folder that is there and read-only is still read from."""
        assert self.folder is not None
        return not self.folder.is_dir() or os.access(self.folder, os.W_OK)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"

    def _remember(self, key: str, factors: LowRank) -> None:
        with self._lock:
            self._in_memory[key] = factors
            self._in_memory.move_to_end(key)
            while len(self._in_memory) > 1 and sum(_bytes(held) for held in self._in_memory.values()) > self.memory:
                if self.folder is None and not self._overflowed:
                    log.warning(
                        "the factor cache exceeds %.1f GB of memory; engine.cache=disk avoids recomputing",
                        self.memory / 1e9,
                    )
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


def width(k: int, full: int, tasks: int) -> int:
    """How many of `full` components are decomposed for the top k, so that many ranks share one decomposition."""
    if k <= full // SMALLEST_SET:
        return full // SMALLEST_SET
    return k if k == full // tasks and tasks >= FEWEST else full


@dataclass
class CachedAlgebra:
    """An algebra with a cache of singular factors; the key is the digest of the matrix and of the numerics.

    Every rank is cut from the decomposition at its `width`: the default ranks of 8 and more tasks share one, all ranks
    above them share the full one. So sweeps over ranks and over numbers of tasks from 8 decompose each matrix at most
    once and a half; every smaller number of tasks adds one at its default rank. But for
    rounding, the results do not depend on the content of the cache: the fast decompositions of a layer begin where
    others of it converged. A cut is as well certified as the whole: its gap to the missing components is the larger
    one.
    """

    algebra: Algebra
    name: str
    store: FactorCache
    _numerics: str = field(default_factory=numerics)

    def truncated_svd(self, matrices: Matrices, k: int) -> LowRank:
        """The top k singular components, as `linalg.truncated_svd`."""
        matrices = whole(matrices)
        m, n = matrices.shape[-2:]
        flat = matrices.reshape(-1, m, n)
        tasks = matrices.shape[-3] if matrices.dim() > 2 else 1
        count = width(k, min(m, n), tasks)
        keys = [self._key(matrix, count) for matrix in flat]
        found = self._known(keys)
        if len(found) < len(keys):
            with self.store.alone(keys[0]):
                found = self._known(keys)  # another process may have computed them meanwhile
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
        """The polar factors, as `linalg.polar`; they are not cached, since each belongs to one rank."""
        return self.algebra.polar(matrices)


def _bytes(factors: LowRank) -> int:
    return sum(part.numel() * part.element_size() for part in factors)
