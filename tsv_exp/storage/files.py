"""Files that are either whole or absent: atomic writes, locks between processes, the user's cache."""

import glob
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from tsv_exp.errors import UserError
from tsv_exp.runtime.console import console
from tsv_exp.runtime.os_errors import explain
from tsv_exp.runtime.ownership import hold, remove_abandoned

LONGEST = 150  # bytes of a file's name in that of its temporary file; file systems take 255
PARTIAL = ".partial"  # ends the name of a temporary file
NOTICE = 5.0  # seconds until a process that waits for a lock says so


_given: list[Path] = []  # at most one


def use_cache(folder: Path | str | None) -> None:
    """Set this process's cache folder (paths.cache); None: the user's."""
    _given[:] = [] if folder is None else [Path(folder)]


def cache_dir() -> Path:
    """The cache folder: the one in use, else that of the environment variable TSV_EXP_CACHE, else the user's."""
    if _given:
        return _given[0]
    return Path(os.environ.get("TSV_EXP_CACHE") or user_cache_path("tsv_exp", appauthor=False))


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` on success, remove it on any failure.

    The temporary file's name has the process and its host, and the process holds a lock on it while it lives. What
    killed processes left of the same file is cleared away.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    # The name is known before the file is made, so that a signal at any moment leaves no file.
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


def clear_partial_files(folder: Path, names: str) -> None:
    """Remove what killed processes left of files of these names (a pattern) in `folder`; live ones keep theirs."""
    for half in folder.glob(f".{names}.*{PARTIAL}"):
        remove_abandoned(half)


def _held(temporary: Path) -> int:
    """Make a file that this process holds; its handle."""
    while True:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if hold(handle):
            return handle
        os.close(handle)  # cleared away between its making and its marking


def _cut(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:LONGEST])


@contextmanager
def locked(path: Path | str, patience: float = -1) -> Iterator[bool]:
    """Hold the lock of `path` (a file `path`.lock beside it) against every other process and thread.

    Who waits for longer than some seconds says for which lock, and who holds it: the holder may be suspended.

    Args:
        path: of what the lock protects.
        patience: seconds to wait; below 0 without end.

    Yields:
        Whether the lock is held; False after `patience` seconds in vain.

    Raises:
        UserError: the folder cannot be written.
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
    """Who holds a lock file, as far as it says."""
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
    with suppress(OSError):  # the lock is held, whether or not it can say by whom
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return True
