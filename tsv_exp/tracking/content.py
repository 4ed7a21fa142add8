"""Content for all trackers: tables as plain rows, plots, keys without spaces and commas."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tsv_exp.report.results.cells import from_results
from tsv_exp.report.results.routing import PARTS
from tsv_exp.report.tables.assemble import single
from tsv_exp.report.tables.groups import Group, columns
from tsv_exp.report.tables.routing import routing_sheets
from tsv_exp.report.tables.sheets import Sheet, alpha
from tsv_exp.report.write import Report

REUSED = ("method", "tracked run", "folder")


@dataclass(frozen=True)
class Table:
    """A table of plain values."""

    key: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def key(text: str) -> str:
    """Convert text to a key of letters, digits, dots, hyphens and slashes."""
    return re.sub(r"[^\w./-]+", "-", text).strip("-")


def flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings; keys are joined by slashes."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        place = f"{prefix}/{key(str(name))}"
        found |= flat(place, value) if isinstance(value, Mapping) else {place: value}
    return found


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """Summary of one run: state, α, validation accuracies at that α, test accuracies, sizes, seconds."""
    found = {name: results[name] for name in ("status", "error", "alpha", "stored_bytes") if name in results}
    chosen = [point for point in results.get("validation") or () if point["alpha"] == results.get("alpha")]
    for point in chosen:
        found |= flat("validation", {name: value for name, value in point.items() if name != "alpha"})
    for part in ("test", "seconds"):
        found |= flat(part, results.get(part) or {})
    routing = results.get("routing") or {}
    return found | flat("routing", {part: routing[part] for part in PARTS if part in routing})


def group_tables(groups: Sequence[Group]) -> list[Table]:
    """One table of methods per group."""
    return [
        Table(
            key(f"table/{group.title}"),
            ("method", *(heading for heading, _ in columns(group)), "alpha", "size"),
            tuple(
                (row.label, *(_percent(figure(row)) for _, figure in columns(group)), alpha(row), row.size)
                for row in group.rows
            ),
        )
        for group in groups
    ]


def report_tables(report: Report, reused: Sequence[Mapping[str, Any]] = ()) -> list[Table]:
    """The tables of a report: its tables of methods, else its sheets (as in an analysis), and the reused cells."""
    found = [*group_tables(report.groups), *map(_sheet, routing_sheets(report.groups))] or [
        _sheet(sheet) for sheet in report.sheets
    ]
    rows = tuple((one.get("method"), one.get("tracked"), one.get("reused_from")) for one in reused)
    return [*found, Table("reused", REUSED, rows)] if rows else found


@contextmanager
def single_run(results: Mapping[str, Any], folder: Path) -> Iterator[tuple[list[Table], list[Path]]]:
    """The table and the plots of a run outside a sweep; empty for a failed run."""
    if results["status"] != "ok":
        yield [], []
        return
    from tsv_exp.report.plots.pictures import draw_pictures

    groups = [single(from_results(results, folder))]
    with TemporaryDirectory() as drawn:
        pictures = draw_pictures(groups, Path(drawn), kinds=("png",))
        tables = [*group_tables(groups), *map(_sheet, routing_sheets(groups))]
        yield tables, [path for picture in pictures for path in picture.paths]


def _percent(estimate: Any) -> float | None:
    return estimate and round(100 * estimate.mean, 2)


def _sheet(sheet: Sheet) -> Table:
    rows = tuple((line.label, *(entry.value for entry in line.entries)) for line in sheet.lines)
    return Table(key(f"table/{sheet.title}"), (sheet.first, *sheet.headings), rows)
