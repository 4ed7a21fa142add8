"""Selects and draws the plots that a set of runs supports."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from tsv_exp.report.plots import bars, curves, maps
from tsv_exp.report.plots.style import row_styles
from tsv_exp.report.tables.groups import Group, Row

MOST = 60  # rows of one plot: it is about half a metre high then; the tables have all rows


def draw(groups: Sequence[Group], narrow: bool = False, by_score: bool = False) -> Iterator[tuple[str, str, Figure]]:
    """Section (a group's title or source), file name and figure of every plot that the data supports.

    Args:
        groups: the tables; a row has the same style in every plot.
        narrow: layout for phones, with stacked panels.
        by_score: sort methods by average accuracy, best first.
    """
    looks = row_styles((row.label, row.method) for group in groups for row in group.rows)
    for source in dict.fromkeys(group.source for group in groups):
        mine = [group for group in groups if group.source == source]
        lines = curves.counts(mine)
        if lines:
            yield source, f"number-of-tasks-{_slug(source)}", curves.against_tasks(source, lines, looks, narrow)
        for group in mine:
            rows = [row for row in group.rows if row.cells]
            if rows:
                for name, figure in _of_group(group, rows, looks, narrow, by_score):
                    yield group.title, name, figure


def _of_group(
    group: Group, rows: Sequence[Row], looks: curves.Looks, narrow: bool, by_score: bool
) -> Iterator[tuple[str, Figure]]:
    name = _slug(group.title)
    ranked = sorted(rows, key=_loss) if by_score else rows
    shown = _best(group, ranked)
    yield f"average-{name}", bars.averages(*shown, looks, narrow)
    if len(group.tasks) > 1:
        yield f"tasks-{name}", bars.per_task(*shown, looks, narrow)
    curved = [row for row in rows if len(curves.curve(row)) > 1]
    if curved:
        yield f"alpha-{name}", curves.against_alpha(*_best(group, curved), looks, narrow)
    families = curves.ranks(rows)
    if families:
        yield f"rank-{name}", curves.against_rank(group, families, looks, narrow)
    for row in rows:
        if row.routed and len(group.tasks) > 1:
            yield f"confusion-{name}-{_slug(row.label)}", maps.confusion_map(group, row, narrow)
    for family, members in curves.ranks(curved).items():
        yield f"alpha-rank-{name}-{_slug(family)}", maps.alpha_rank_map(group, family, members, narrow)


def _best(group: Group, rows: Sequence[Row]) -> tuple[Group, Sequence[Row]]:
    """The rows that one plot can show, in their order, and the group with a title that says so."""
    if len(rows) <= MOST:
        return group, rows
    best = set(sorted(range(len(rows)), key=lambda at: _loss(rows[at]))[:MOST])
    told = replace(group, task_set=f"{group.task_set}, the best {MOST} of {len(rows)} rows")
    return told, [row for at, row in enumerate(rows) if at in best]


def _loss(row: Row) -> float:
    return -row.average.mean if row.average else 0.0


def _slug(text: str) -> str:
    """Convert a text to a part of a file name of bounded length."""
    return re.sub(r"\W+|_", "-", text).strip("-")[:200].lower()
