"""Accuracies that were measured before, in one SQLite file in the cache: safe under concurrent and killed runs."""

import sqlite3
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout

from tsv_exp.errors import UserError
from tsv_exp.storage.files import cache_dir

WAIT = 60  # seconds for another process that is writing
PATIENCE = 60.0  # seconds for another process that is measuring: it may be suspended


class Scores:
    """Digest of everything an accuracy depends on -> the accuracy (a fraction).

    Who asks for one that is not known has it to measure: until it is put, or the next is asked for, other processes
    that ask for it wait, but not for ever: at worst two measure the same. The operating system ends the claim of a
    process that dies.
    """

    _claim: ClassVar[FileLock | None] = None  # one in a process, which measures one accuracy at a time

    def __init__(self) -> None:
        self.path = cache_dir() / "scores.sqlite"
        self._open: sqlite3.Connection | None = None

    def get(self, key: str) -> float | None:
        """The accuracy, or None where it is the caller's to measure."""
        self._release()
        known = self._known(key)
        if known is None:
            self._take(key)
            known = self._known(key)
        if known is not None:
            self._release()
        return known

    def put(self, key: str, accuracy: float) -> None:
        """Keep an accuracy."""
        self._query("INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, accuracy))
        self._release()

    def _known(self, key: str) -> float | None:
        rows = self._query("SELECT accuracy FROM scores WHERE key = ?", (key,))
        return float(rows[0][0]) if rows else None

    def _take(self, key: str) -> None:
        place = self.path.parent / "locks" / f"score-{key[:2]}.lock"  # a few files; others' keys rarely wait for ours
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place)
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            return
        except OSError as error:
            raise UserError(f"{place}: {error.strerror or error}; choose another folder with paths.cache") from error
        Scores._claim = lock

    @staticmethod
    def _release() -> None:
        if Scores._claim is not None:
            Scores._claim.release()
            Scores._claim = None

    def _query(self, statement: str, values: tuple[object, ...]) -> list[tuple[float]]:
        try:
            if self._open is None:
                self._open = self._connection()
            return self._open.execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self.path}: {error}; remove the file, or choose another folder with paths.cache"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        Path(self.path.parent).mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)  # every statement is committed
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, accuracy REAL CHECK (accuracy BETWEEN 0 AND 1))"
        )
        return connection
