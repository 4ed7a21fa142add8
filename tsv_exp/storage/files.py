"""Files that are either whole or absent: atomic writes, inter-process locks, content digests, the user's cache."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from platformdirs import user_cache_path

from tsv_exp.errors import UserError

if TYPE_CHECKING:
    pass


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


def clear_partial_files(folder: Path, names: str) -> None:
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
