"""Files that are either complete or absent: atomic writes, locks between processes, the user's cache."""

import glob
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from tsv_exp.errors import UserError
from tsv_exp.runtime.console import console
from tsv_exp.runtime.messages.os_errors import explain
from tsv_exp.runtime.ownership import hold, remove_abandoned

LONGEST = 150  # bytes of the file name within a temporary file's name; file systems allow 255
PARTIAL = ".partial"  # suffix of temporary files
NOTICE = 5.0  # seconds after which waiting for a lock is reported


_given: list[Path] = []  # at most one element


def use_cache(folder: Path | str | None) -> None:
    """Set the cache folder of this process (paths.cache); None: the user's cache folder."""
    _given[:] = [] if folder is None else [Path(folder)]


def cache_dir() -> Path:
    """The cache folder: the one set by `use_cache`, else the environment variable TSV_EXP_CACHE, else the user's."""
    if _given:
        return _given[0]
    return Path(os.environ.get("TSV_EXP_CACHE") or user_cache_path("tsv_exp", appauthor=False))


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` on success, remove it on any failure.

    The temporary file's name contains the process id and the host, and the process locks it while it lives. Temporary
    files of killed processes for the same path are removed.

    Raises:
        UserError: the folder is not writable, or the disk is full.
    """
    path = Path(path)
    # The name is known before the file is created, so that a signal at any moment leaves no file.
    owner = f"{socket.gethostname()[:32]}-{os.getpid()}"
    temporary = path.with_name(f".{_cut(path.name)}.{owner}.{token_hex(4)}{PARTIAL}")
    handle = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_partial_files(path.parent, glob.escape(_cut(path.name)))
        handle = _held(temporary)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {explain(error)}") from error
    finally:
        with suppress(OSError):  # its folder may not be there
            temporary.unlink()
        if handle >= 0:
            os.close(handle)


def check_writable(folder: Path) -> None:
    """Create a folder, and for a moment a file in it: before long work whose result goes there.

    Raises:
        UserError: files cannot be created there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {explain(error)}") from error


def clear_partial_files(folder: Path, names: str) -> None:
    """Remove temporary files of killed processes for names that match a pattern; keeps those of live processes."""
    for half in folder.glob(f".{names}.*{PARTIAL}"):
        remove_abandoned(half)


def _held(temporary: Path) -> int:
    """Create a file, locked by this process; returns its handle."""
    while True:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if hold(handle):
            return handle
        os.close(handle)  # removed between creation and locking


def _cut(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:LONGEST])


@contextmanager
def locked(path: Path | str, patience: float = -1) -> Iterator[bool]:
    """Hold the lock of `path` (a file `path`.lock beside it) against every other process and thread.

    A wait of more than a few seconds is reported with the lock and its holder, which may be suspended.

    Args:
        path: the path that the lock protects.
        patience: seconds to wait; negative: without limit.

    Yields:
        Whether the lock was acquired; False after waiting `patience` seconds.

    Raises:
        UserError: the folder is not writable.
    """
    lock = Path(f"{path}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        guard = FileLock(lock)
        held = _acquired(guard, lock, patience)
    except OSError as error:
        raise UserError(f"cannot lock {lock}: {explain(error)}") from error
    try:
        yield held
    finally:
        guard.release()


def holder(lock: Path) -> str:
    """The holder of a lock file, if recorded."""
    try:
        return lock.read_text(encoding="utf-8").strip() or "another process"
    except (OSError, ValueError):
        return "another process"


def _acquired(guard: FileLock, lock: Path, patience: float) -> bool:
    first = NOTICE if patience < 0 else min(NOTICE, patience)
    try:
        guard.acquire(timeout=first)
    except Timeout:
        if patience == 0:
            return False
        console.print(f"waiting for {lock}, held by {holder(lock)}", markup=False, highlight=False, soft_wrap=True)
        try:
            guard.acquire(timeout=-1 if patience < 0 else patience - first)
        except Timeout:
            return False
    with suppress(OSError):  # the lock is held even if the holder cannot be recorded
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return True
