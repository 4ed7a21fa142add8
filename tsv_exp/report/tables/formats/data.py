"""Groups for other programs: CSV in percent, JSON in fractions."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tsv_exp.report.results.routing import PARTS
from tsv_exp.report.results.runs import Runs
from tsv_exp.report.tables.formats.csv_text import csv_text
from tsv_exp.report.tables.groups import Group, Row, columns
from tsv_exp.report.tables.sheets import alpha_range


def comma_separated(groups: Sequence[Group]) -> str:
    """All groups as one CSV: percentages, one column per task of any group, parameters as name=value."""
    tasks = list(dict.fromkeys(task for group in groups for task in group.tasks))
    run = [
        "model",
        "family",
        "tasks",
        "method",
        "params",
        "seeds",
        "status",
        "error",
        "alpha",
        "size",
        "table",
        "row",
        "alpha_at_edge",
    ]
    header = [*run, "average", "average_spread", "normalized", "normalized_spread", *tasks]
    rows = []
    for group in groups:
        for row in group.rows:
            params = ";".join(f"{name}={value}" for name, value in row.params.items() if value is not None)
            values = [group.model, group.family, len(group.tasks), row.method, params, len(row.cells), row.status]
            values += [row.error, alpha_range(row) if row.alphas else "", _percent(row.size), group.title, row.label]
            values += [row.at_edge if row.cells else ""]
            for average in (row.average, row.normalized):
                values += [_percent(average.mean if average else None), _percent(average.spread if average else None)]
            figures = [row.task(task) if task in group.tasks else None for task in tasks]
            rows.append([*values, *(_percent(figure.mean if figure else None) for figure in figures)])
    return csv_text(header, rows)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def plain(groups: Sequence[Group], runs: Runs) -> dict[str, Any]:
    """The tables as plain JSON values; accuracies are fractions, as in results.json."""
    tables = [
        {
            "title": group.title,
            "model": group.model,
            "family": group.family,
            "tasks": list(group.tasks),
            "rows": [_plain_row(group, row) for row in group.rows],
        }
        for group in groups
    ]
    problems = [{"folder": str(problem.folder), "reason": problem.reason} for problem in runs.problems]
    called = [{**asdict(experiment.words), "runs": experiment.runs} for experiment in runs.experiments]
    return {"groups": tables, "experiments": called, "problems": problems, "replaced": runs.replaced}


def _plain_row(group: Group, row: Row) -> dict[str, Any]:
    figures = {heading: figure(row) for heading, figure in columns(group)}
    return {
        "label": row.label,
        "method": row.method,
        "params": dict(row.params),
        "status": row.status,
        "error": row.error,
        "seeds": [cell.seed for cell in row.cells],
        "folders": [str(cell.folder) for cell in row.cells],
        "alpha": [cell.alpha for cell in row.cells],
        "alpha_at_edge": row.at_edge,
        "alpha_protocol": dict(row.cells[0].protocol) if row.cells else {},
        "per_task": row.per_task,
        "size": row.size,
        "routing": {part: e.mean for part in PARTS if (e := row.routing(part))},
        "figures": {name: e and {"mean": e.mean, "spread": e.spread} for name, e in figures.items()},
    }
