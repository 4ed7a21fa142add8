"""Assembles cells into tables: rows of a table share weights, data, precision and tasks, and differ by setting."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tsv_exp.report.results.bases import Basis, find_bases
from tsv_exp.report.results.cells import Cell
from tsv_exp.report.results.runs import Runs
from tsv_exp.report.tables.groups import Group, Row
from tsv_exp.report.tables.labels import Setting, labels

Home = tuple[int, tuple[str, ...]]  # which basis, tasks


def build_groups(runs: Runs) -> tuple[Group, ...]:
    """Groups and rows in order of first appearance; a failed cell fails its row only if no seed finished."""
    ordered = sorted((*runs.finished, *runs.unsuccessful), key=lambda cell: cell.order)
    bases = find_bases(cell for cell in ordered if cell.error is None)
    known = {cell.folder: number for number, basis in enumerate(bases) for cell in basis.cells}
    done = {cell.setting[:2] for cell in runs.finished}
    names = labels(cell for cell in ordered if cell.error is None or cell.setting[:2] not in done)
    members: dict[Home, list[Cell]] = {}
    for cell in ordered:
        home = (known[cell.folder], cell.tasks) if cell.error is None else _home(cell, bases)
        if home is not None:
            members.setdefault(home, []).append(cell)
    return tuple(
        Group(
            bases[home[0]].model,
            bases[home[0]].family,
            home[1],
            tuple(_rows(cells, names)),
            _name(home, members),
            bases[home[0]].words,
        )
        for home, cells in members.items()
    )


def single(cell: Cell) -> Group:
    """The table of one cell."""
    home = 0, cell.tasks
    row = Row(cell.method, cell.method, cell.params, (cell,))
    return Group(cell.model, cell.family, cell.tasks, (row,), _name(home, [home]))


def _name(home: Home, others: Iterable[Home]) -> str:
    """The name of a task set: its size, or its tasks if another set has the same size."""
    number, tasks = home
    alike = [other for other in others if other[0] == number and len(other[1]) == len(tasks)]
    return f"{len(tasks)} tasks" if len(alike) == 1 and len(tasks) > 1 else ", ".join(tasks)


def _home(cell: Cell, bases: list[Basis]) -> Home | None:
    """The group of a cell without results; if its task names are unknown, a group with the same number of tasks."""
    for number, basis in enumerate(bases):
        for other in basis.cells if basis.may_hold(cell) else ():
            if other.tasks == cell.tasks or (not cell.tasks and len(other.tasks) == cell.count):
                return number, other.tasks
    if not cell.tasks:
        return None
    number = next((n for n, basis in enumerate(bases) if basis.may_hold(cell)), len(bases))
    if number == len(bases):
        bases.append(Basis(cell.model, cell.family, cell.precision, [cell]))
    return number, cell.tasks


def _rows(cells: Sequence[Cell], names: Mapping[Setting, str]) -> Iterator[Row]:
    finished: dict[Setting, list[Cell]] = {}
    for cell in cells:
        if cell.error is None:
            finished.setdefault(cell.setting, []).append(cell)
    shown: set[Setting] = set()
    for cell in cells:
        setting = cell.setting if cell.error is None else _counterpart(cell, finished)
        if setting in shown:
            continue
        shown.add(setting)
        row = Row(names.get(setting, cell.method), cell.method, cell.params, (), cell.status, cell.error)
        yield from _repeated(row, finished[setting]) if setting in finished else [row]


def _repeated(row: Row, cells: Sequence[Cell]) -> Iterator[Row]:
    """Rows with one cell per seed: several if runs differ in something other than setting and seed."""
    rounds: list[dict[int, Cell]] = []
    for cell in cells:
        free = next((found for found in rounds if cell.seed not in found), None)
        if free is None:
            rounds.append(free := {})
        free[cell.seed] = cell
    for found in rounds:
        first = next(iter(found.values()))
        apart = f" [run {_tail(first, cells)}]" if len(rounds) > 1 else ""
        yield replace(
            row, label=row.label + apart, cells=tuple(found.values()), status="ok", error=None, params=first.params
        )


def _tail(cell: Cell, others: Sequence[Cell]) -> str:
    """The shortest end of a folder's path that is unique among the cells."""
    parts = cell.folder.parts
    for length in range(1, len(parts) + 1):
        if sum(other.folder.parts[-length:] == parts[-length:] for other in others) == 1:
            return "/".join(parts[-length:])
    return str(cell.folder)


def _counterpart(cell: Cell, finished: Mapping[Setting, Sequence[Cell]]) -> Any:
    """The finished setting to which a cell without results belongs, else its own setting."""
    for setting, others in finished.items():
        first = others[0]
        alike = all(first.params.get(name, value) == value for name, value in cell.params.items())
        if first.method == cell.method and alike:
            return setting
    return cell.setting
