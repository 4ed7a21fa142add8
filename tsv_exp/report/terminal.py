"""The combined table in the terminal: the task columns give way where the terminal is too narrow for them."""

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tsv_exp.report.formats import alpha, cells, legend, note, size
from tsv_exp.report.tables import Group, columns

STYLES = {1: "bold", 2: "underline"}


def show(groups: Sequence[Group], console: Console) -> None:
    """Print the table of every group."""
    for group in groups:
        for part in _parts(group, console.width):
            console.print(part)


def _parts(group: Group, width: int) -> Iterator[RenderableType]:
    table = _table(group, range(len(columns(group))))
    if table.__rich_measure__(Console(width=1000), Console(width=1000).options).maximum > width:
        table = _table(group, range(len(group.tasks), len(columns(group))))
        yield table
        yield Text("Per-task figures: table.md, or a wider terminal.", style="dim")
    else:
        yield table
    yield Text(legend(group), style="dim")


def _table(group: Group, shown: range) -> Table:
    headings = [heading for heading, _ in columns(group)]
    table = Table(title=group.title, title_justify="left", title_style="bold")
    table.add_column("method", no_wrap=True)
    for heading in [*(headings[i] for i in shown), "α", "size"]:
        table.add_column(heading, justify="right", no_wrap=True)
    notes = any(note(row) for row in group.rows)
    if notes:
        table.add_column("note", max_width=30)
    for row, figures in cells(group):
        texts = [Text(figures[i][0], style=STYLES.get(figures[i][1] or 0, "")) for i in shown]
        table.add_row(row.label, *texts, alpha(row), size(row), *[note(row)] * notes)
    return table
