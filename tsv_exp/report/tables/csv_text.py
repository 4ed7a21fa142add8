"""Comma-separated values that a spreadsheet takes as what they are: data, not formulas."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULAS = ("=", "+", "-", "@", "\t")  # how a cell begins that a spreadsheet computes


def csv_text(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """The rows below their header. Texts that a spreadsheet would compute begin with an apostrophe; numbers stay."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([_safe(value) for value in row] for row in (header, *rows))
    return out.getvalue()


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # which would end a row
    return f"'{text}" if text.startswith(_FORMULAS) else text
