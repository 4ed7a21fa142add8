"""Files owned by a live process: it locks them, and the operating system releases the lock when the process ends."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def hold(handle: int) -> bool:
    """Lock an open file for the lifetime of this process; returns whether the file is still in its folder.

    On file systems without locks the file stays unlocked.
    """
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.fstat(handle).st_nlink > 0


def remove_abandoned(path: Path) -> None:
    """Remove a file that no live process has locked; keeps it if that cannot be determined."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()  # while locked: a process that is just creating it notices
        finally:
            os.close(handle)
