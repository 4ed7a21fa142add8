"""Measured and published results side by side."""

from collections.abc import Mapping, Sequence

from tsv_exp.errors import UserError
from tsv_exp.report.results.published import about, averages, known, published
from tsv_exp.report.tables.groups import Group, Row
from tsv_exp.report.tables.sheets import MISSING, Entry, Line, Sheet

SUMMARIES = ("average", "normalized")


def comparison_sheets(groups: Sequence[Group], family: str | None = None) -> list[Sheet]:
    """One sheet per group with published results: measured, published, and the difference for each method.

    Args:
        groups: the measured tables.
        family: compare with this family of checkpoints; None: each group with its own.

    Raises:
        UserError: a family is given that has no published results for any group's model.
    """
    sheets = [_sheet(group, family or group.family) for group in groups if known(family or group.family, group.model)]
    if family is not None and not sheets:
        measured = ", ".join(dict.fromkeys(group.model for group in groups))
        raise UserError(
            f"--published {family}: no published results for {measured or 'these runs'}; leave the option out"
        )
    return sheets


def _sheet(group: Group, family: str) -> Sheet:
    lines = [line for row in group.rows for line in _lines(group, row, family)]
    legend = (
        f"Accuracy in percent, difference in points. Published results belong to the {family} family of checkpoints: "
        f"{about(family)} {MISSING} means not published."
    )
    headings = (*group.tasks, *SUMMARIES)
    title = f"{group.title}: measured and published"
    return Sheet(group.title, title, headings, tuple(lines), legend, least=1, sortable=False)


def _lines(group: Group, row: Row, family: str) -> list[Line]:
    measured = {task: value.mean for task in group.tasks if (value := row.task(task))}
    measured |= {name: value.mean for name in SUMMARIES if (value := getattr(row, name))}
    stated = published(family, group.model, group.tasks, row.method, row.params)
    theirs = averages(family, group.model, group.tasks, stated) | stated
    computed = " and ".join(name for name in SUMMARIES if name in theirs and name not in stated)
    names = (*group.tasks, *SUMMARIES)
    ours = {name: 100 * value for name, value in measured.items()}
    differences = {name: ours[name] - theirs[name] for name in names if name in ours and name in theirs}
    return [
        Line(row.label, tuple(_entry(ours, name, "{:.2f}") for name in names), row.error or ""),
        Line(
            "published",
            tuple(_entry(theirs, name, "{:.2f}") for name in names),
            computed and f"{computed} computed from the tasks",
        ),
        Line("difference", tuple(_entry(differences, name, "{:+.2f}") for name in names)),
    ]


def _entry(values: Mapping[str, float], name: str, form: str) -> Entry:
    return Entry(form.format(values[name]).replace("-", "−") if name in values else MISSING)
