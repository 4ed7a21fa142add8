"""Tables of routers: how often the task is correct, and the effect on accuracy."""

from collections.abc import Sequence

from tsv_exp.report.tables.groups import Estimate, Group, Row
from tsv_exp.report.tables.sheets import Entry, Line, Sheet, percent

HEADINGS = ("task correct", "accuracy", "own head", "task known", "relative")


def routing_sheets(groups: Sequence[Group]) -> list[Sheet]:
    """One sheet for every group with a router."""
    return [_sheet(group, rows) for group in groups if (rows := [row for row in group.rows if row.routed])]


def _sheet(group: Group, rows: Sequence[Row]) -> Sheet:
    lines = [Line(row.label, tuple(map(_entry, _figures(group, row)))) for row in rows]
    explanation = (
        "Per task: the share of its test examples that are routed to it, in percent. Task correct: their average. "
        "Accuracy: by the chosen model and head, where an answer of another task's head is wrong. Own head: by the "
        "chosen model with the task's own head. Task known: by the task's own model and head. Relative: "
        "accuracy relative to that."
    )
    title = f"{group.title}: routing"
    return Sheet(group.title, title, (*group.tasks, *HEADINGS), tuple(lines), explanation, least=len(HEADINGS))


def _figures(group: Group, row: Row) -> list[Estimate | None]:
    per_task = [row.routing("routed", task) for task in group.tasks]
    found, own, told = (row.routing(part) for part in ("routed", "own_head", "told"))
    kept = Estimate(row.average.mean / told.mean) if row.average and told and told.mean > 0 else None
    return [*per_task, found, row.average, own, told, kept]


def _entry(value: Estimate | None) -> Entry:
    return Entry(percent(value), value=value.mean if value else None)
