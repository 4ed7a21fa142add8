"""Run folders in, cells out: what finished, what failed, what is still running, what cannot be read."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tsv_exp.errors import UserError
from tsv_exp.report.planned import PLAN, missing_runs

RESULTS = "results.json"
# what reading a file of unexpected content raises
MALFORMED = (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError)
# the keys of a method's YAML that are none of its parameters
NOT_PARAMETERS = {"_target_", "name", "prepare", "layers", "others", "alpha", "tune"}


@dataclass(frozen=True)
class Cell:
    """One run of one setting on one task set with one seed; accuracies are fractions.

    `alpha` was given where `validation` is empty, and chosen on validation otherwise; `size` is what is stored to serve
    all tasks relative to one full checkpoint per task.
    """

    folder: Path
    status: str  # ok | failed | unfinished
    model: str
    tasks: tuple[str, ...]
    method: str
    error: str | None = None
    seed: int = 0
    family: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    per_task: bool = False
    alpha: float | None = None
    validation: tuple[Mapping[str, Any], ...] = ()
    test: Mapping[str, Any] = field(default_factory=dict)
    size: float | None = None
    count: int = 0  # of tasks: known even where their names are not
    order: int = 0  # in which the runs were found

    @property
    def setting(self) -> tuple[str, str, float | None]:
        """What is compared: the method, its parameters, and α where it was given rather than chosen."""
        given = None if self.validation else self.alpha
        return self.method, json.dumps(self.params, sort_keys=True, default=str), given

    @property
    def key(self) -> tuple[Any, ...]:
        """Two cells with the same key are two runs of the same thing."""
        return self.model, self.family, self.tasks, self.setting, self.seed


@dataclass(frozen=True)
class Problem:
    """A run folder that gave no figures, and why, in one line."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Runs:
    """Finished cells and those that gave no figures, in the order in which they ran.

    `problems` names the folder of every run without figures, unreadable ones included; `replaced` counts the older
    runs of a cell that a newer one stands for.
    """

    finished: tuple[Cell, ...]
    unsuccessful: tuple[Cell, ...]
    problems: tuple[Problem, ...]
    replaced: int = 0

    @property
    def summary(self) -> str:
        """How many runs stand behind the figures, in one line."""
        parts = [f"{len(self.finished)} finished runs"]
        if self.problems:
            parts.append(f"{len(self.problems)} without figures")
        if self.replaced:
            parts.append(f"{self.replaced} older runs of the same cells left out")
        return ", ".join(parts)


def read_runs(folders: Iterable[Path | str]) -> Runs:
    """Every run below `folders`; a file that cannot be read is a problem, and the others go on.

    Raises:
        UserError: a folder does not exist, or no run lies below any of them.
    """
    finished: dict[tuple[Any, ...], Cell] = {}
    unsuccessful: list[Cell] = []
    problems: list[Problem] = []
    replaced = 0
    roots = [Path(folder) for folder in folders]
    for order, folder in enumerate(_holding(roots, lambda below, files: RESULTS in files or ".hydra" in below)):
        try:
            cell = replace(_read(folder), order=order)
        except MALFORMED as error:
            problems.append(Problem(folder, f"{_source(folder)} cannot be read: {_reason(error)}"))
            continue
        if cell.error is not None:
            unsuccessful.append(cell)
            problems.append(Problem(folder, f"{cell.status}: {cell.error}"))
            continue
        known = finished.get(cell.key)
        replaced += known is not None
        if known is None or _written(cell) >= _written(known):
            finished[cell.key] = cell
    for sweep in _holding(roots, lambda below, files: PLAN in files):
        try:
            problems += [Problem(sweep, f"missing: no run of {overrides}") for overrides in missing_runs(sweep)]
        except MALFORMED as error:
            problems.append(Problem(sweep, f"{PLAN} cannot be read: {_reason(error)}"))
    if not finished and not problems:
        where = ", ".join(map(str, roots)) or "nothing"
        raise UserError(f"no runs ({RESULTS} or .hydra) below {where}; give the folder of a run or a sweep")
    return Runs(tuple(finished.values()), tuple(unsuccessful), tuple(problems), replaced)


def _holding(folders: Iterable[Path], wanted: Callable[[list[str], list[str]], bool]) -> Iterator[Path]:
    """The folders at or below `folders` of which the names of subfolders and files are `wanted`, each once."""
    seen: set[Path] = set()
    for root in folders:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder of a run or a sweep")
        found = [Path(at) for at, below, files in os.walk(root) if wanted(below, files)]
        for folder in sorted(found, key=_natural):
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def _natural(path: Path) -> list[Any]:
    """Sorting key in which run 10 follows run 9."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in path.parts]


def _source(folder: Path) -> str:
    return RESULTS if (folder / RESULTS).exists() else ".hydra/config.yaml"


def _reason(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())


def _written(cell: Cell) -> float:
    return (cell.folder / RESULTS).stat().st_mtime


def _read(folder: Path) -> Cell:
    if not (folder / RESULTS).exists():
        return _unfinished(folder)
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    if results["status"] not in ("ok", "failed"):
        raise ValueError(f"status is {results['status']!r}, neither 'ok' nor 'failed'")
    return from_results(results, folder)


def from_results(results: Mapping[str, Any], folder: Path) -> Cell:
    """The cell of one results.json.

    Raises:
        KeyError, ValueError, TypeError: a finished run lacks a figure, or it is not a number.
    """
    tasks = results.get("tasks")
    common: dict[str, Any] = {
        "folder": folder,
        "status": results["status"],
        "model": str(results.get("model") or "unknown model"),
        "tasks": tuple(tasks) if isinstance(tasks, list) else (),
        "count": _count(tasks),
        "method": str(results.get("method") or "unknown method"),
        "seed": results.get("seed") or 0,
        "family": str((results.get("checkpoints") or {}).get("family") or ""),
        "params": results.get("params") or {},
        "alpha": results.get("alpha"),
        "validation": tuple(results.get("validation") or ()),
    }
    if results["status"] == "failed":
        return Cell(**common, error=" ".join(str(results.get("error") or "failed without a message").split()))
    test = results["test"]
    for name in common["tasks"]:
        _number(test["accuracy"][name], f"test.accuracy.{name}")
    for name in ("mean_accuracy", "mean_normalized"):
        _number(test[name], f"test.{name}")
    full = results.get("checkpoint_bytes")
    size = results["stored_bytes"] / (len(common["tasks"]) * full) if full else None
    return Cell(**common, test=test, per_task=bool(results.get("per_task")), size=size)


def _number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, not a number")


def _unfinished(folder: Path) -> Cell:
    """A run without results: still running, or killed. What Hydra composed says what it was to be."""
    composed = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
    choices = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text(encoding="utf-8"))["hydra"]["runtime"][
        "choices"
    ]
    tasks = composed.get("tasks")
    return Cell(
        folder,
        "unfinished",
        model=str(choices["model"]),
        tasks=tuple(tasks) if isinstance(tasks, list) else (),
        count=_count(tasks),
        method=str(choices["method"]),
        params={name: value for name, value in composed["method"].items() if name not in NOT_PARAMETERS},
        seed=composed.get("seed") or 0,
        error="no results yet: still running, or killed",
    )


def _count(tasks: Any) -> int:
    return len(tasks) if isinstance(tasks, list) else int(tasks or 0)
