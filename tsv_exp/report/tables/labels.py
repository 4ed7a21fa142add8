"""Labels of rows: the method, with the fewest words that distinguish its rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from tsv_exp.report.results.bases import most_common
from tsv_exp.report.results.cells import Cell
from tsv_exp.report.results.checks import line_of

_LONGEST = 100  # longest value in characters
Setting = tuple[str, str, str, str]  # method, parameters, how α was found, other conditions


def labels(cells: Iterable[Cell]) -> dict[Setting, str]:
    """The method's name, with the settings that differ between its rows, and how α was found if unusual."""
    listed = list({cell.setting: cell for cell in cells}.values())
    choices = [cell.choice for cell in listed if cell.choice and (cell.protocol or cell.chosen)]
    usual = most_common(choices)
    return {
        cell.setting: label(cell.method, _apart(cell, listed) | _choice(cell, listed, usual[0] if usual else None))
        for cell in listed
    }


def _apart(cell: Cell, cells: Iterable[Cell]) -> dict[str, Any]:
    """The parameters and conditions in which rows of the same method differ."""
    alike = [other for other in cells if other.method == cell.method]
    params = {k: v for k, v in cell.params.items() if any(other.params.get(k) != v for other in alike)}
    others = [other.conditions for other in alike]
    return params | {k: v for k, v in cell.conditions.items() if any(other.get(k) != v for other in others)}


def _choice(cell: Cell, cells: Iterable[Cell], usual: Mapping[str, Any] | None) -> dict[str, Any]:
    """How α was found, if it differs from most rows or distinguishes rows of one method."""
    if not cell.choice or cell.choice == usual:
        return {}
    apart = (cell.method, *cell.setting[1::2])
    needed = any((other.method, *other.setting[1::2]) == apart and other.choice != cell.choice for other in cells)
    if not needed and not cell.protocol:  # older results do not record whether α was chosen
        return {}
    return {k: v for k, v in cell.choice.items() if (usual or {}).get(k) != v} or cell.choice


def label(method: str, params: Mapping[str, Any]) -> str:
    """A method with some of its parameters, as a label in tables and plots."""
    shown = [
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {_short(value)}"
        for name, value in params.items()
        if value is not None
    ]
    return f"{method} ({', '.join(shown)})" if shown else method


def _short(value: Any) -> str:
    text = line_of(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
