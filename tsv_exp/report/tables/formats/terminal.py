"""Prints sheets in the terminal; drops columns on the left if it is too narrow."""

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tsv_exp.report.tables.sheets import Sheet

STYLES = ("", "bold", "underline")


def show(sheets: Sequence[Sheet], console: Console) -> None:
    """Print every sheet with its legend."""
    for sheet in sheets:
        table = _table(sheet, 0)
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum > console.width:
            table = _table(sheet, len(sheet.headings) - sheet.least)
        console.print(table)
        if len(table.columns) <= len(sheet.headings):
            console.print("Some columns are not shown: see table.md, or widen the terminal.", style="dim")
        for line in sheet.lines:
            if line.note:
                console.print(f"{line.label}: {line.note}", markup=False, highlight=False)
        console.print(sheet.legend, style="dim", markup=False, highlight=False)
        console.print()


def _table(sheet: Sheet, first: int) -> Table:
    """The sheet from its column `first` on."""
    table = Table(title=Text(sheet.title), title_justify="left", title_style="bold")
    table.add_column(Text(sheet.first), overflow="fold")  # the only column that may be truncated
    for heading in sheet.headings[first:]:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for line in sheet.lines:
        texts = [Text(entry.text, STYLES[entry.place]) for entry in line.entries[first:]]
        table.add_row(Text(line.label), *texts)
    return table
