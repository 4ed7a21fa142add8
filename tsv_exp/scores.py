"""Accuracies that were measured before, in one SQLite file in the cache: safe under concurrent and killed runs."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tsv_exp.errors import UserError
from tsv_exp.files import cache_dir

WAIT = 60  # seconds for another process that is writing


class Scores:
    """Digest of everything an accuracy depends on -> the accuracy (a fraction)."""

    def __init__(self) -> None:
        self.path = cache_dir() / "scores.sqlite"

    def get(self, key: str) -> float | None:
        """The accuracy, or None where it was not measured yet."""
        rows = self._query("SELECT accuracy FROM scores WHERE key = ?", (key,))
        return float(rows[0][0]) if rows else None

    def put(self, key: str, accuracy: float) -> None:
        """Keep an accuracy."""
        self._query("INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, accuracy))

    def _query(self, statement: str, values: tuple[object, ...]) -> list[tuple[float]]:
        try:
            with closing(self._connection()) as connection, connection:
                return connection.execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self.path}: {error}; remove the file, or choose another folder with paths.cache"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        Path(self.path.parent).mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=WAIT)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, accuracy REAL CHECK (accuracy BETWEEN 0 AND 1))"
        )
        return connection
