"""Which pictures a set of runs supports."""

import re
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from tsv_exp.report.plots import bars, curves
from tsv_exp.report.tables.groups import Group, Row


def draw(groups: Sequence[Group]) -> Iterator[tuple[str, str, Figure]]:
    """Section (a group's title, or its source), file name and figure of every picture that the data supports."""
    for source in dict.fromkeys(group.source for group in groups):
        mine = [group for group in groups if group.source == source]
        lines = curves.counts(mine)
        if lines:
            yield source, f"number-of-tasks-{_slug(source)}", curves.against_tasks(source, lines)
        for group in mine:
            rows = [row for row in group.rows if row.cells]
            if rows:
                for name, figure in _of_group(group, rows):
                    yield group.title, name, figure


def _of_group(group: Group, rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    name = _slug(group.title)
    yield f"average-{name}", bars.averages(group, rows)
    if len(group.tasks) > 1:
        yield f"tasks-{name}", bars.per_task(group, rows)
    curved = [row for row in rows if len(curves.curve(row)) > 1]
    if curved:
        yield f"alpha-{name}", curves.against_alpha(group, curved)
    families = curves.ranks(rows)
    if families:
        yield f"rank-{name}", curves.against_rank(group, families)
    for family, members in curves.ranks(curved).items():
        yield f"alpha-rank-{name}-{_slug(family)}", curves.alpha_rank_map(group, family, members)


def _slug(text: str) -> str:
    """A text as part of a file name of bounded length."""
    return re.sub(r"\W+|_", "-", text).strip("-")[:200].lower()
