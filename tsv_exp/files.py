"""Files that are either whole or absent: atomic writes, inter-process locks, content digests, the user's cache."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from platformdirs import user_cache_path

from tsv_exp.errors import UserError

if TYPE_CHECKING:
    from hashlib import _Hash


def cache_dir() -> Path:
    """The user's cache folder; the environment variable TSV_EXP_CACHE overrides it."""
    return Path(os.environ.get("TSV_EXP_CACHE") or user_cache_path("tsv_exp", appauthor=False))


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` on success, remove it on any failure.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        # mkstemp makes private files; a shared cache or results folder follows the user's umask instead.
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def clear_halves(folder: Path, names: str) -> None:
    """Remove what killed processes left of files of these names (a pattern) in `folder`, while nobody writes there."""
    for half in folder.glob(f".{names}.*"):
        half.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Hold the lock of `path` (a file `path`.lock beside it) against every other process and thread.

    Raises:
        UserError: the folder cannot be written.
    """
    lock = Path(f"{path}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        guard = FileLock(lock)
        guard.acquire()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot lock {lock}: {reason}; make the folder writable or choose another") from error
    try:
        yield
    finally:
        guard.release()


def digest(*parts: Any) -> str:
    """Hexadecimal SHA-256 of nested plain values, bytes, tensors, arrays and mappings, types and shapes included."""
    state = hashlib.sha256()
    for part in parts:
        _feed(state, part)
    return state.hexdigest()


def _feed(state: "_Hash", part: Any) -> None:
    if isinstance(part, Mapping):
        state.update(b"{%d" % len(part))
        for key in sorted(part):
            _feed(state, key)
            _feed(state, part[key])
    elif isinstance(part, (list, tuple)):
        state.update(b"[%d" % len(part))
        for item in part:
            _feed(state, item)
    elif isinstance(part, bytes):
        state.update(b"b%d:" % len(part))
        state.update(part)
    elif part is None or isinstance(part, (str, int, float)):
        _feed(state, f"{type(part).__name__}:{part!r}".encode())
    elif hasattr(part, "detach"):  # a torch tensor, without importing torch
        import torch

        tensor = part.detach().cpu().contiguous()
        _feed(state, f"{tensor.dtype}{tuple(tensor.shape)}")
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())
    elif hasattr(part, "tobytes"):  # a numpy array
        _feed(state, f"{part.dtype}{part.shape}")
        state.update(part.tobytes())
    else:
        raise TypeError(f"cannot digest {type(part).__name__}")
