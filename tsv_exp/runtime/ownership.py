"""Files that belong to a living process: it holds a lock on them, which the operating system ends with the process."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def hold(handle: int) -> bool:
    """Mark an open file as this process's while it lives; returns whether it is still in its folder.

    A file system without locks leaves it unmarked.
    """
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.fstat(handle).st_nlink > 0


def remove_abandoned(path: Path) -> None:
    """Remove a file whose process is dead, or that nobody ever held; others stay, and what cannot be known."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()  # while it is locked: whoever makes it at this moment notices
        finally:
            os.close(handle)
