"""Scores that were measured before, in one SQLite file in the cache: safe under concurrent and killed runs."""

import os
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tsv_exp.errors import UserError
from tsv_exp.runtime.os_errors import cause, explain
from tsv_exp.storage.files import cache_dir, locked

WAIT = 60  # seconds for another process that is writing
PATIENCE = 60.0  # seconds for another process that is measuring: it may be suspended


class Scores:
    """Digest of everything a score depends on -> its value, and which examples were right.

    The value is an accuracy (a fraction), or another metric in [-1, 1].

    Who asks for one that is not known has it to measure: until it is put, or the next is asked for, other processes
    that ask for it wait, but not for ever: at worst two measure the same. The operating system ends the claim of a
    process that dies.
    """

    _claim: ClassVar[ExitStack] = ExitStack()  # one in a process, which measures one accuracy at a time

    def __init__(self) -> None:
        self.path = cache_dir() / "scores.sqlite"
        self._open: sqlite3.Connection | None = None

    def get(self, key: str) -> float | None:
        """The value, or None where it is the caller's to measure."""
        known = self._ask("SELECT value FROM metrics WHERE key = ?", key)
        return None if known is None else float(known)

    def correct(self, key: str, count: int) -> NDArray[np.bool_] | None:
        """Which of `count` examples were right, or None where it is the caller's to measure."""
        bits = self._ask("SELECT bits FROM correct WHERE key = ?", key)
        return None if bits is None else np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(np.bool_)

    def put(self, key: str, value: float, correct: NDArray[np.bool_] | None = None) -> None:
        """Keep a value and, where examples are right or wrong, which ones were right; not in a read-only cache."""
        if self._writable and correct is not None:
            self._query("INSERT OR REPLACE INTO correct VALUES (?, ?)", (key, np.packbits(correct).tobytes()))
        if self._writable:
            self._query("INSERT OR REPLACE INTO metrics VALUES (?, ?)", (key, value))
        self._release()

    def _ask(self, statement: str, key: str) -> Any:
        """The value that a statement finds, or None: then the claim on the key is this process's."""
        self._release()
        rows = self._query(statement, (key,))
        if not rows:
            self._take(key)
            rows = self._query(statement, (key,))
        if not rows:
            return None
        self._release()
        return rows[0][0]

    def _take(self, key: str) -> None:
        if self._writable:
            place = self.path.parent / "locks" / f"score-{key[:2]}"  # a few files; others' keys rarely wait for ours
            Scores._claim.enter_context(locked(place, PATIENCE))

    @staticmethod
    def _release() -> None:
        Scores._claim.close()

    def _query(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any]]:
        try:
            if self._open is None:
                self._open = self._connection()
            return self._open.execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            system = cause(error)
            reason = explain(system) if system else f"{error}; remove the file, or choose another folder"
            raise UserError(f"{self.path}: {reason} (paths.cache)") from error

    @property
    def _writable(self) -> bool:
        return not self.path.is_file() or (os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK))

    def _connection(self) -> sqlite3.Connection:
        if not self._writable:
            return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", timeout=WAIT, uri=True)
        Path(self.path.parent).mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)  # every statement is committed
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS metrics (key TEXT PRIMARY KEY, value REAL CHECK (value BETWEEN -1 AND 1))"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS correct (key TEXT PRIMARY KEY, bits BLOB NOT NULL)")
        return connection
