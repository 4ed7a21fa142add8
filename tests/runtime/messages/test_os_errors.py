import errno
import sqlite3

import pytest

from tsv_exp.errors import UserError
from tsv_exp.runtime.messages.failures import error_message, expected
from tsv_exp.runtime.messages.os_errors import cause, explain


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free space"),
        (OSError(errno.EACCES, "Permission denied"), "change the permissions"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (MemoryError(), "ulimit -v"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "ulimit -v"),
        (RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"), "ulimit -v"),
        (RuntimeError("No such device: Too many open files (os error 24)"), "ulimit -n"),
        (sqlite3.OperationalError("database or disk is full"), "free space"),
    ],
)
def test_remedies_fit(error: Exception, remedy: str) -> None:
    found = cause(error)
    assert found is not None
    assert remedy in explain(found)


def test_what_is_expected() -> None:
    assert expected(UserError("x"))
    assert expected(MemoryError())
    assert expected(PermissionError(13, "Permission denied"))
    assert not expected(RuntimeError("a bug"))
    assert not expected(ValueError("a bug"))
    assert error_message(OSError(2, "No such file or directory", "x")) == "x: No such file or directory; check the path"
