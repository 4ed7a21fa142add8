"""Which pictures a set of runs supports."""

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from tsv_exp.report import bars, curves
from tsv_exp.report.tables import Group, Row


def draw(groups: Sequence[Group]) -> Iterator[tuple[str, str, Figure]]:
    """Section (a group's title, or its source), file name and figure of every picture that the data supports."""
    for nested in _nested(groups):
        yield (
            nested[0].source,
            f"number-of-tasks-{_slug(nested[0].model, nested[0].family)}",
            curves.against_tasks(nested),
        )
    for group in groups:
        rows = [row for row in group.rows if row.cells]
        if rows:
            for name, figure in _of_group(group, rows):
                yield group.title, name, figure


def _of_group(group: Group, rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    name = _slug(group.model, group.family, str(len(group.tasks)))
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


def _slug(*names: str) -> str:
    """Distinct names as one part of a file name."""
    parts = ("".join(c if c.isalnum() else "-" for c in name).strip("-") for name in dict.fromkeys(names) if name)
    return "-".join(parts)


def _nested(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Per model the groups whose tasks begin the longest list of tasks, where there are several; ascending."""
    for source in dict.fromkeys(group.source for group in groups):
        mine = sorted((group for group in groups if group.source == source), key=lambda group: len(group.tasks))
        nested = [group for group in mine if group.tasks == mine[-1].tasks[: len(group.tasks)]]
        if len(nested) > 1:
            yield nested
