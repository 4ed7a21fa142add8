"""Cells to tables: one group per model, checkpoint family and task set; one row per setting, over its seeds."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tsv_exp.report.results.cells import Cell
from tsv_exp.report.results.runs import Runs

Home = tuple[str, str, tuple[str, ...]]  # model, family of checkpoints, tasks


@dataclass(frozen=True)
class Estimate:
    """A fraction; `spread` is its standard error (one seed) or standard deviation (several), None where unknown."""

    mean: float
    spread: float | None = None


@dataclass(frozen=True)
class Row:
    """One setting: its finished cells (one per seed), or the reason why there are none."""

    label: str
    method: str
    params: Mapping[str, Any]
    cells: tuple[Cell, ...] = ()
    status: str = "ok"  # ok | failed | unfinished
    error: str | None = None

    @property
    def per_task(self) -> bool:
        """Whether every task is served by weights of its own."""
        return any(cell.per_task for cell in self.cells)

    @property
    def merged(self) -> bool:
        """Whether this is one merged model for all tasks: neither one model per task nor the base itself (α = 0)."""
        return bool(self.cells) and not self.per_task and any(cell.alpha != 0 for cell in self.cells)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The distinct α of the cells, ascending."""
        return tuple(sorted({cell.alpha for cell in self.cells if cell.alpha is not None}))

    @property
    def size(self) -> float | None:
        """Stored bytes relative to one full checkpoint per task."""
        sizes = [cell.size for cell in self.cells if cell.size is not None]
        return fmean(sizes) if sizes else None

    def task(self, name: str) -> Estimate | None:
        """Test accuracy on one task."""
        return self._over_seeds(lambda cell: cell.test["accuracy"][name])

    @property
    def average(self) -> Estimate | None:
        """Test accuracy averaged over the tasks."""
        return self._over_seeds(lambda cell: cell.test["mean_accuracy"], "standard_error")

    @property
    def normalized(self) -> Estimate | None:
        """Test accuracy relative to the fine-tuned model of each task, averaged over the tasks."""
        return self._over_seeds(lambda cell: cell.test["mean_normalized"], "standard_error_normalized")

    def _over_seeds(self, figure: Callable[[Cell], float], error: str = "") -> Estimate | None:
        values = [figure(cell) for cell in self.cells]
        if len(values) > 1:
            return Estimate(fmean(values), stdev(values))
        return Estimate(values[0], self.cells[0].test.get(error)) if values else None


@dataclass(frozen=True)
class Group:
    """The rows of one model, checkpoint family and task set."""

    model: str
    family: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    task_set: str

    @property
    def title(self) -> str:
        """What is measured, for headings; no two groups of a report share it."""
        return f"{self.source}, {self.task_set}"

    @property
    def source(self) -> str:
        """The model, and the family of its checkpoints where that says more."""
        return self.model if self.family in ("", self.model) else f"{self.model} ({self.family} checkpoints)"

    def places(self, figure: Callable[[Row], Estimate | None]) -> dict[str, int]:
        """Label -> 1 for the best and 2 for the second best single merged models; equals share a place."""
        values = {row.label: value.mean for row in self.rows if row.merged and (value := figure(row))}
        if len(values) < 2:
            return {}
        best = sorted(set(values.values()), reverse=True)[:2]
        return {label: best.index(value) + 1 for label, value in values.items() if value in best}


def single(cell: Cell) -> Group:
    """The table of one cell."""
    home = cell.model, cell.family, cell.tasks
    return Group(*home, (Row(cell.method, cell.method, cell.params, (cell,)),), _name(home, [home]))


def columns(group: Group) -> list[tuple[str, Callable[[Row], Estimate | None]]]:
    """Headings and figures of a group's accuracy columns: its tasks, then both averages."""
    tasks = [(task, lambda row, task=task: row.task(task)) for task in group.tasks]
    return [*tasks, ("average", lambda row: row.average), ("normalized", lambda row: row.normalized)]


def build_groups(runs: Runs) -> tuple[Group, ...]:
    """Groups and rows in the order of first appearance; a failed cell fails its row only where no seed finished."""
    done = {cell.setting[:2] for cell in runs.finished}
    labels = _labels(c.setting for c in (*runs.finished, *(c for c in runs.unsuccessful if c.setting[:2] not in done)))
    members: dict[Home, list[Cell]] = {}
    for cell in sorted((*runs.finished, *runs.unsuccessful), key=lambda cell: cell.order):
        home = _home(cell, runs.finished)
        if home is not None:
            members.setdefault(home, []).append(cell)
    return tuple(Group(*home, tuple(_rows(cells, labels)), _name(home, members)) for home, cells in members.items())


def _name(home: Home, others: Iterable[Home]) -> str:
    """How a task set is called: by its size, by its tasks where another has that size too."""
    model, family, tasks = home
    alike = [other for other in others if other[:2] == (model, family) and len(other[2]) == len(tasks)]
    return f"{len(tasks)} tasks" if len(alike) == 1 and len(tasks) > 1 else ", ".join(tasks)


def _home(cell: Cell, finished: Sequence[Cell]) -> Home | None:
    """The group of a cell; one that ended before its task names were known joins one with as many tasks."""
    if cell.error is None:
        return cell.model, cell.family, cell.tasks
    alike = (other for other in finished if other.model == cell.model and cell.family in ("", other.family))
    for other in alike:
        if other.tasks == cell.tasks or (not cell.tasks and len(other.tasks) == cell.count):
            return other.model, other.family, other.tasks
    return (cell.model, cell.family, cell.tasks) if cell.tasks else None


def _rows(cells: Sequence[Cell], labels: Mapping[Any, str]) -> Iterator[Row]:
    finished: dict[Any, list[Cell]] = {}
    for cell in cells:
        if cell.error is None:
            finished.setdefault(cell.setting, []).append(cell)
    shown: set[Any] = set()
    for cell in cells:
        setting = cell.setting if cell.error is None else _counterpart(cell, finished)
        if setting in shown:
            continue
        shown.add(setting)
        name = labels.get(setting, cell.method)
        if setting in finished:
            yield Row(name, cell.method, finished[setting][0].params, tuple(finished[setting]))
        else:
            yield Row(name, cell.method, cell.params, (), cell.status, cell.error)


def _counterpart(cell: Cell, finished: Mapping[Any, list[Cell]]) -> Any:
    """The finished setting that a cell without results was a run of, else its own."""
    for setting, others in finished.items():
        first = others[0]
        alike = all(first.params.get(name, value) == value for name, value in cell.params.items())
        if first.method == cell.method and alike:
            return setting
    return cell.setting


def _labels(settings: Iterable[tuple[str, str, float | None]]) -> dict[Any, str]:
    """The method's name, with those of its parameters (and its given α) that differ between settings."""
    distinct = list(dict.fromkeys(settings))
    labels = {}
    for method, params, given in distinct:
        alike = [(json.loads(p), g) for m, p, g in distinct if m == method]
        mine = json.loads(params)
        varying = {k: v for k, v in mine.items() if any(other.get(k) != v for other, _ in alike)}
        if any(g != given and other == mine for other, g in alike):
            varying["α"] = "chosen" if given is None else given
        labels[method, params, given] = label(method, varying)
    return labels


def label(method: str, params: Mapping[str, Any]) -> str:
    """A method with some of its parameters, as tables and pictures name it."""
    shown = [
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
        if value is not None
    ]
    return f"{method} ({', '.join(shown)})" if shown else method
