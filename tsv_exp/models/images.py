"""Images at CLIP's input size: decoded by several threads, cached in one memory-mapped file per split."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.runtime.console import track
from tsv_exp.runtime.parallel.threads import prefetch
from tsv_exp.storage.files import atomic, locked
from tsv_exp.tasks.task import Split

log = logging.getLogger(__name__)

CHUNK = 256  # images
SPARE = 1 << 30  # bytes of disk space that stay free


@dataclass(frozen=True)
class Resize:
    """How an image is resized, in open_clip's terms.

    `interpolation`: bicubic or bilinear; `mode`: shortest (short side, then centre crop) or squash.
    """

    interpolation: str = "bicubic"
    mode: str = "shortest"

    def __post_init__(self) -> None:
        for value, known in ((self.interpolation, ("bicubic", "bilinear")), (self.mode, ("shortest", "squash"))):
            if value not in known:
                raise UserError(f"resizing by {value!r} is not supported; choose from: {', '.join(known)}")


def preprocess(picture: Image.Image, size: int, resize: Resize = Resize()) -> Tensor:
    """To uint8 (3, size, size), RGB, as open_clip does; by default short side to `size`, then centre crop."""
    width, height = picture.size
    short = min(width, height)
    shape = (size, size) if resize.mode == "squash" else (size * width // short, size * height // short)
    resized = picture.resize(shape, Image.Resampling[resize.interpolation.upper()])
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    colours = resized.crop((left, top, left + size, top + size)).convert("RGB")
    return torch.from_numpy(np.array(colours)).permute(2, 0, 1)


@dataclass(frozen=True)
class Pictures:
    """`count` images, decoded on access; indexed like a tensor (count, 3, size, size)."""

    picture: Callable[[int], Image.Image]
    count: int
    size: int
    resize: Resize = Resize()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        chosen = list(range(self.count))[index] if isinstance(index, slice) else index.tolist()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return torch.stack(list(pool.map(lambda i: preprocess(self.picture(i), self.size, self.resize), chosen)))


@dataclass(frozen=True)
class Prefetched(Split):
    """A split whose next batch is read or decoded while the current one is in use."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Consecutive batches of at most `size` images and labels."""
        # The copy makes this thread wait for the disk instead of the consumer of the batch; a GPU reads pinned
        # memory faster.
        copied = Tensor.pin_memory if torch.cuda.is_initialized() else Tensor.clone
        return prefetch((copied(images), labels) for images, labels in Split(self.inputs, self.labels).batches(size))


def stored(path: Path, size: int) -> Split | None:
    """The split that `store` wrote, memory-mapped; None if there is none."""
    each, total = _bytes(size), path.stat().st_size if path.is_file() else 0
    if not total or total % each:
        return None
    count = total // each
    content = torch.from_file(str(path), shared=False, size=total, dtype=torch.uint8)
    images = content[: count * 3 * size * size].view(count, 3, size, size)
    labels = content[count * 3 * size * size :].clone().view(torch.int64)
    return Prefetched(images, labels)


def store(path: Path, pictures: Pictures, labels: Tensor, limit: int, description: str) -> Split:
    """The split, cached in `path` if its folder then stays below `limit` bytes; else decoded again in every pass.

    Raises:
        UserError: an image cannot be decoded, or the folder is not writable.
    """
    need = len(labels) * _bytes(pictures.size)
    if need > _room(path.parent, limit):
        log.info("%s: %.1f GB of images are not cached: no space within model.cache_gb", description, need / 1e9)
        return Prefetched(pictures, labels)
    with locked(path):
        if not path.exists():
            with atomic(path) as temporary, temporary.open("wb") as file:
                for start in track(range(0, len(labels), CHUNK), description):
                    file.write(pictures[start : start + CHUNK].numpy().data)
                file.write(labels.numpy().data)
    split = stored(path, pictures.size)
    assert split is not None
    return split


def _bytes(size: int) -> int:
    return 3 * size * size + 8


def _room(folder: Path, limit: int) -> int:
    if limit <= 0:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    used = sum(file.stat().st_size for file in folder.iterdir())
    return min(limit - used, shutil.disk_usage(folder).free - SPARE)
