"""Messages for operating-system errors: a reason and a remedy."""

import errno
import os
import re

_REMEDIES = {
    errno.ENOSPC: "free space or choose another folder",
    errno.EDQUOT: "free space within the quota, or choose another folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "change the permissions, or choose another folder",
    errno.EPERM: "change the permissions, or choose another folder",
    errno.EROFS: "choose a folder on a file system that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file is where a folder should be; choose another folder",
    errno.EEXIST: "a file is where a folder should be; choose another folder",
    errno.EISDIR: "a folder is where a file should be; remove it or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a symbolic link points to itself; remove it",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has no file handles left",
    errno.ENOMEM: "free memory, or raise its limit (ulimit -v)",
    errno.EAGAIN: "raise the limit on processes and threads (ulimit -u)",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network file system",
}
_NUMBERED = re.compile(r"\(os error (\d+)\)")  # format of libraries written in Rust
_MEMORY = re.compile(r"(can't|cannot|could not|unable to|failed to) (allocate|map|mmap)|not enough memory", re.I)
_FULL = re.compile(r"No space left on device|database or disk is full", re.I)


def explain(error: OSError) -> str:
    """Reason and remedy, as "No space left on device; free space or choose another folder"."""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{reason}; {remedy}" if remedy else reason


def cause(error: BaseException) -> OSError | None:
    """The operating-system error that caused a library's error, or None."""
    if isinstance(error, OSError) and error.errno:
        return error
    text = str(error)
    if found := _NUMBERED.search(text):
        return _made(int(found[1]))
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return _made(errno.ENOMEM)
    return _made(errno.ENOSPC) if _FULL.search(text) else None


def _made(number: int) -> OSError:
    return OSError(number, os.strerror(number))
