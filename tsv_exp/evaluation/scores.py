"""Cache of measured scores and predictions in one SQLite file, safe under concurrent and killed runs."""

import io
import os
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tsv_exp.errors import UserError
from tsv_exp.runtime.messages.os_errors import cause, explain
from tsv_exp.storage.files import cache_dir, locked

WAIT = 60  # seconds to wait for another process that writes
PATIENCE = 60.0  # seconds to wait for another process that measures: it may be suspended
TABLES = {
    "metrics": "key TEXT PRIMARY KEY, value REAL CHECK (value BETWEEN -1 AND 1)",
    "correct": "key TEXT PRIMARY KEY, bits BLOB NOT NULL",
    "predictions": "key TEXT PRIMARY KEY, classes BLOB NOT NULL",
}


class Scores:
    """Digest of everything a score depends on -> its value, and which predictions were correct; or the predictions.

    The value is an accuracy (a fraction), or another metric in [-1, 1].

    A process that looks up a missing score is expected to measure it. Other processes that look it up wait until the
    score is stored or the first process looks up another one. The wait is limited: at worst two processes measure the
    same score. The claim is a file lock, so the operating system releases it when a process dies.
    """

    _claim: ClassVar[ExitStack] = ExitStack()  # one per process: it measures one accuracy at a time

    def __init__(self) -> None:
        self.path = cache_dir() / "scores.sqlite"
        self._open: sqlite3.Connection | None = None

    def get(self, key: str) -> float | None:
        """The value, or None if the caller has to measure it."""
        known = self._lookup("SELECT value FROM metrics WHERE key = ?", key)
        return None if known is None else float(known)

    def correct(self, key: str, count: int) -> NDArray[np.bool_] | None:
        """Which of `count` predictions were correct, or None if the caller has to measure them."""
        bits = self._lookup("SELECT bits FROM correct WHERE key = ?", key)
        return None if bits is None else np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(np.bool_)

    def predictions(self, key: str) -> NDArray[np.int64] | None:
        """The predicted classes (N,), or None if the caller has to compute them."""
        stored = self._lookup("SELECT classes FROM predictions WHERE key = ?", key)
        if stored is None:
            return None
        with np.load(io.BytesIO(stored), allow_pickle=False) as file:
            classes: NDArray[np.int64] = file["classes"]
        return classes

    def put_predictions(self, key: str, classes: NDArray[np.int64]) -> None:
        """Store predicted classes (N,); does nothing in a read-only cache."""
        if self._writable:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, classes=classes)
            self._query("INSERT OR REPLACE INTO predictions VALUES (?, ?)", (key, buffer.getvalue()))
        self._release()

    def put(self, key: str, value: float, correct: NDArray[np.bool_] | None = None) -> None:
        """Store a value and, for classification, which predictions were correct; does nothing in a read-only cache."""
        if self._writable and correct is not None:
            self._query("INSERT OR REPLACE INTO correct VALUES (?, ?)", (key, np.packbits(correct).tobytes()))
        if self._writable:
            self._query("INSERT OR REPLACE INTO metrics VALUES (?, ?)", (key, value))
        self._release()

    def _lookup(self, statement: str, key: str) -> Any:
        """The value that a statement finds, or None after this process has claimed the key."""
        self._release()
        rows = self._query(statement, (key,))
        if not rows:
            self._claim_key(key)
            rows = self._query(statement, (key,))
        if not rows:
            return None
        self._release()
        return rows[0][0]

    def _claim_key(self, key: str) -> None:
        if self._writable:
            place = self.path.parent / "locks" / f"score-{key[:2]}"  # a few lock files; other keys rarely share ours
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
        if self._writable:
            Path(self.path.parent).mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)  # every statement is committed
            connection.execute("PRAGMA synchronous = NORMAL")
            new = "CREATE TABLE IF NOT EXISTS"
        else:
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", timeout=WAIT, uri=True)
            new = "CREATE TEMP TABLE"  # empty, where the file of an earlier version has none
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        for name in TABLES.keys() - known:
            connection.execute(f"{new} {name} ({TABLES[name]})")
        return connection
