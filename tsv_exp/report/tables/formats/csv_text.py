"""CSV text that spreadsheets read as data, not as formulas."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULAS = ("=", "+", "-", "@", "\t")  # first characters of cells that spreadsheets evaluate


def csv_text(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """The rows below their header. Texts that a spreadsheet would evaluate get an apostrophe in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([_safe(value) for value in row] for row in (header, *rows))
    return out.getvalue()


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # a carriage return would end the row
    return f"'{text}" if text.startswith(_FORMULAS) else text
