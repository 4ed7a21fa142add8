"""Tables as numbers: one group per model, weights, data and task set; one row per setting, over its seeds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tsv_exp.report.results.cells import Cell


@dataclass(frozen=True)
class Estimate:
    """A fraction; `spread` is its standard error (one seed) or standard deviation (several seeds), None if unknown."""

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
        """Whether every task has its own weights."""
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
    def at_edge(self) -> bool:
        """Whether one of them was chosen at an end of its grid."""
        return any(cell.at_edge for cell in self.cells)

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

    @property
    def routed(self) -> bool:
        """Whether a router chose the task of every example."""
        return any(cell.routing for cell in self.cells)

    def routing(self, part: str, task: str | None = None) -> Estimate | None:
        """A figure of the router on one task, or averaged over tasks; `part` is routed, own_head or told."""
        if not self.routed:
            return None
        if task is None:
            return self._over_seeds(lambda cell: cell.routing[part]["mean_accuracy"])
        return self._over_seeds(lambda cell: cell.routing[part]["accuracy"][task])

    def chosen(self, task: str, other: str) -> float:
        """The share of a task's examples that went to another task (or to itself)."""
        return fmean(cell.routing["confusion"][task][other] for cell in self.cells)

    def _over_seeds(self, figure: Callable[[Cell], float], error: str = "") -> Estimate | None:
        values = [figure(cell) for cell in self.cells]
        if len(values) > 1:
            return Estimate(fmean(values), stdev(values))
        return Estimate(values[0], self.cells[0].test.get(error)) if values else None


@dataclass(frozen=True)
class Group:
    """The rows of one model, checkpoint family and task set; `words` distinguish weights, data and precision."""

    model: str
    family: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    task_set: str
    words: str = ""

    @property
    def title(self) -> str:
        """The title of the group, unique within a report."""
        return f"{self.source}, {self.task_set}"

    @property
    def source(self) -> str:
        """The model, and the family of its checkpoints if it differs."""
        family = "" if self.family in ("", self.model) else f"{self.family} checkpoints"
        apart = ", ".join(filter(None, [family, self.words]))
        return f"{self.model} ({apart})" if apart else self.model

    def places(self, figure: Callable[[Row], Estimate | None]) -> dict[str, int]:
        """Label -> 1 for the best and 2 for the second best single merged models; ties share a place."""
        values = {row.label: value.mean for row in self.rows if row.merged and (value := figure(row))}
        if len(values) < 2:
            return {}
        best = sorted(set(values.values()), reverse=True)[:2]
        return {label: best.index(value) + 1 for label, value in values.items() if value in best}


def columns(group: Group) -> list[tuple[str, Callable[[Row], Estimate | None]]]:
    """Headings and values of a group's accuracy columns: its tasks, then both averages."""
    tasks = [(task, lambda row, task=task: row.task(task)) for task in group.tasks]
    return [*tasks, ("average", lambda row: row.average), ("normalized", lambda row: row.normalized)]
