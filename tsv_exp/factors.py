"""Decompose once, cut many: singular factors kept in memory within a process and on disk between processes."""

import logging
import os
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from tsv_exp import files
from tsv_exp.checkpoints.readers import read
from tsv_exp.checkpoints.writer import save
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.linalg import Algebra

log = logging.getLogger(__name__)

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4  # bytes of factors a process keeps
DISK = 16 << 30  # bytes of factors the cache folder keeps


@dataclass
class Store:
    """Factors by key: the most recently used in memory, and in `folder` where there is one.

    Files are whole or absent, so a killed writer leaves nothing.
    """

    folder: Path | None = None
    memory: int = MEMORY
    disk: int = DISK
    _kept: OrderedDict[str, LowRank] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)
    _overflowed: bool = False

    def get(self, key: str) -> LowRank | None:
        """The factors of a key, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        if self.folder is None or not (path := self._path(key)).is_file():
            return None
        try:
            stored = read(path)
            factors = LowRank(*(stored[name].clone() for name in LowRank._fields))
            os.utime(path)
        except (UserError, KeyError, OSError):
            log.warning("%s is damaged and is made again", path)
            return None
        self._remember(key, factors)
        return factors

    def put(self, key: str, factors: LowRank) -> None:
        """Keep factors; the least recently used give way."""
        self._remember(key, factors)
        if self.folder is not None:
            with files.atomic(self._path(key)) as path:
                save(path, factors._asdict())
            with files.locked(self.folder / "eviction"):
                self._evict(self.folder)

    def alone(self, key: str) -> AbstractContextManager[None]:
        """No two processes that share `folder` make the same factors at once."""
        return nullcontext() if self.folder is None else files.locked(self.folder / "locks" / key[:2])

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"

    def _remember(self, key: str, factors: LowRank) -> None:
        with self._lock:
            self._kept[key] = factors
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(_bytes(kept) for kept in self._kept.values()) > self.memory:
                if self.folder is None and not self._overflowed:
                    log.warning("factors exceed %.1f GB and are made again; engine.cache=disk", self.memory / 1e9)
                    self._overflowed = True
                self._kept.popitem(last=False)

    def _evict(self, folder: Path) -> None:
        used = sorted((file.stat().st_mtime_ns, file.stat().st_size, file) for file in folder.glob("*.safetensors"))
        total = sum(size for _, size, _ in used)
        for _, size, file in used[:-1]:
            if total <= self.disk:
                return
            file.unlink(missing_ok=True)
            total -= size


@dataclass
class Cached:
    """An algebra whose singular factors are kept, by the bytes of the matrix and what computes them.

    The default number of components is decomposed as it is; any other is cut from the whole decomposition, so that a
    sweep over ranks decomposes once, and its results do not depend on what happened to be kept.
    """

    algebra: Algebra
    name: str
    store: Store

    def truncated_svd(self, matrices: Tensor, k: int) -> LowRank:
        """The top k singular components, as `linalg.truncated_svd`."""
        m, n = matrices.shape[-2:]
        flat = matrices.reshape(-1, m, n)
        tasks = matrices.shape[-3] if matrices.dim() > 2 else 1
        kept = k if k == min(m, n) // tasks else min(m, n)
        keys = [files.digest(self.name, kept, matrix) for matrix in flat]
        found = self._known(keys)
        if len(found) < len(keys):
            with self.store.alone(keys[0]):
                found = self._known(keys)  # another process may have made them meanwhile
                if missing := [i for i in range(len(flat)) if i not in found]:
                    made = self.algebra.truncated_svd(flat[missing], kept)
                    for i, *parts in zip(missing, *made, strict=True):
                        found[i] = LowRank(*(part.cpu().clone() for part in parts))
                        self.store.put(keys[i], found[i])
        cut = (LowRank(f.u[:, :k], f.s[:k], f.vh[:k]) for _, f in sorted(found.items()))
        u, s, vh = (torch.stack(parts).to(matrices.device) for parts in zip(*cut, strict=True))
        batch = matrices.shape[:-2]
        return LowRank(u.view(*batch, m, -1), s.view(*batch, -1), vh.view(*batch, -1, n))

    def _known(self, keys: list[str]) -> dict[int, LowRank]:
        return {i: factors for i, key in enumerate(keys) if (factors := self.store.get(key)) is not None}

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors, as `linalg.polar`; they are not kept, since each belongs to one rank."""
        return self.algebra.polar(matrices)


def _bytes(factors: LowRank) -> int:
    return sum(part.numel() * part.element_size() for part in factors)
