"""Paired differences to one method on the same test examples (`tsv-report --paired METHOD`)."""

from collections.abc import Sequence
from math import isnan
from zipfile import BadZipFile

from tsv_exp.errors import UserError
from tsv_exp.report.results.cells import Cell
from tsv_exp.report.results.paired import Comparison, Difference, compare
from tsv_exp.report.tables.groups import Group, Row
from tsv_exp.report.tables.sheets import MISSING, Entry, Line, Sheet
from tsv_exp.storage.correct_examples import FILE, read_correct

UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile)


def paired_sheets(groups: Sequence[Group], reference: str) -> list[Sheet]:
    """One sheet per group with a row of this name: every other row minus this row, with paired standard errors.

    Raises:
        UserError: no group has such a row, the name is ambiguous, or a run lacks the file of its test examples.
    """
    found = [(group, row) for group in groups if (row := _row(group, reference))]
    if not found:
        known = dict.fromkeys(row.label for group in groups for row in group.rows if row.cells)
        raise UserError(f"--paired {reference}: no finished row of that name; choose from: {', '.join(known)}")
    return [_sheet(group, row) for group, row in found]


def _row(group: Group, name: str) -> Row | None:
    """The finished row with this label, or the only row of the method with this name."""
    finished = [row for row in group.rows if row.cells]
    named = [row for row in finished if row.label == name] or [row for row in finished if row.method == name]
    if len(named) > 1:
        labels = ", ".join(row.label for row in named)
        raise UserError(f"--paired {name}: several rows are of that method; give one of: {labels}")
    return named[0] if named else None


def _sheet(group: Group, reference: Row) -> Sheet:
    for cell in reference.cells:
        if (reason := _unreadable(cell)) is not None:
            raise UserError(f"--paired {reference.label}: {reason}; run it again with resume=false")
    others = [row for row in group.rows if row.cells and row is not reference]
    compared = [_compared(group, row, reference) for row in others]
    several = any(isinstance(found, Comparison) and not isnan(found.over_seeds) for found in compared)
    headings = (*group.tasks, "average", *["± over seeds"] * several, "better : worse", "p")
    lines = [
        Line(row.label, _entries(group, found, several))
        if isinstance(found, Comparison)
        else Line(row.label, tuple(Entry(MISSING) for _ in headings), found)
        for row, found in zip(others, compared, strict=True)
    ]
    title = f"{group.title}: differences to {reference.label}"
    return Sheet(group.title, title, headings, tuple(lines), _legend(reference, several), least=3 + several)


def _unreadable(cell: Cell) -> str | None:
    """Why the examples of a run cannot be compared, or None if they can."""
    if not (cell.folder / FILE).is_file():
        return f"{cell.folder} has no {FILE}"
    try:
        correct = read_correct(cell.folder)
    except UNREADABLE as error:
        return f"{cell.folder / FILE} cannot be read: {' '.join(str(error).split())}"
    for task, accuracy in cell.test["accuracy"].items():
        if task not in correct or abs(float(correct[task].mean()) - accuracy) > 1e-9:
            return f"{cell.folder / FILE} does not have the accuracy of {task} in results.json"
    return None


def _compared(group: Group, row: Row, reference: Row) -> Comparison | str:
    """The comparison over common seeds, or the reason why there is none."""
    theirs = {cell.seed: cell for cell in reference.cells}
    mine = [cell for cell in row.cells if cell.seed in theirs]
    if not mine:
        return f"no seed in common with {reference.label}"
    for cell in mine:
        if (reason := _unreadable(cell)) is not None:
            return reason
    first, second = ([read_correct(cell.folder) for cell in cells] for cells in (mine, [theirs[c.seed] for c in mine]))
    try:
        return compare([{task: one[task] for task in group.tasks} for one in first], second)
    except ValueError:
        return "other test examples"


def _entries(group: Group, found: Comparison, several: bool) -> tuple[Entry, ...]:
    differences = [*(found.tasks[task] for task in group.tasks), found.average]
    seeds = [Entry(MISSING if isnan(found.over_seeds) else f"{100 * found.over_seeds:.2f}")] if several else []
    counts = Entry(f"{found.better} : {found.worse}", value=float(found.better - found.worse))
    p = Entry("< 0.0001" if found.p < 1e-4 else f"{found.p:.4f}", value=found.p)
    return (*map(_entry, differences), *seeds, counts, p)


def _entry(difference: Difference) -> Entry:
    text = f"{100 * difference.mean:+.2f}" + ("" if isnan(difference.error) else f" ± {100 * difference.error:.2f}")
    return Entry(text.replace("-", "−"), value=difference.mean)


def _legend(reference: Row, several: bool) -> str:
    seeds = " Over several seeds an example counts by its mean; ± over seeds is the average's standard error over them."
    return (
        f"Test accuracy minus that of {reference.label}, in points; ± is the standard error of the paired difference "
        f"over the test examples, which are the same for both.{seeds * several} Better : worse counts the examples "
        "that only one of the two classifies correctly; p is of the exact McNemar test on them, all tasks together."
    )
