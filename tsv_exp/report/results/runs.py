"""Reads run folders as cells: finished, failed, still running or unreadable."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tsv_exp.errors import UserError
from tsv_exp.report.results.cells import RESULTS, Cell, Words, read_cell
from tsv_exp.report.results.checks import line_of
from tsv_exp.report.results.planned import PLAN, missing_runs

ANALYSIS = "analysis.json"  # file of tsv-analyze in its folder
_LISTED = 10  # runs without results that the console shows
# errors of reading files with unexpected content
MALFORMED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    yaml.YAMLError,
)


@dataclass(frozen=True)
class Experiment:
    """Runs with the same name, tags and notes; at least one of these is given."""

    words: Words
    runs: int

    def __str__(self) -> str:
        """One line: name (number of runs), tags, notes."""
        count = "1 run" if self.runs == 1 else f"{self.runs} runs"
        return f"{described(self.words)} ({count})"


def described(words: Words) -> str:
    """Name, tags and notes in one line; empty without any."""
    tags = f"tags: {', '.join(words.tags)}" if words.tags else ""
    return "; ".join(filter(None, (words.name, tags, words.notes)))


def experiments(cells: Iterable[Cell]) -> tuple[Experiment, ...]:
    """The experiments that these cells belong to, in the order in which they ran; cells without words are left out."""
    counts = Counter(cell.words for cell in cells if described(cell.words))
    return tuple(Experiment(words, runs) for words, runs in counts.items())


@dataclass(frozen=True)
class Problem:
    """A run folder without results, and the reason in one line."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Runs:
    """Finished cells and cells without results, in the order in which they ran.

    `problems` names the folder of every run without results, including unreadable ones; `replaced` counts older runs
    of a cell that were replaced by a newer run; `analyses` are the folders that tsv-analyze wrote.
    """

    finished: tuple[Cell, ...]
    unsuccessful: tuple[Cell, ...]
    problems: tuple[Problem, ...]
    replaced: int = 0
    analyses: tuple[Path, ...] = ()

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """The names, tags and notes of all runs."""
        return experiments((*self.finished, *self.unsuccessful))

    def problem_lines(self) -> Iterator[str]:
        """The runs without results, a line for each of the first; report.html and report.json list all."""
        for problem in self.problems[:_LISTED]:
            yield f"{problem.folder}: {problem.reason}"
        if (more := len(self.problems) - _LISTED) > 0:
            yield f"and {_number(more, 'more run')} without results, which the report lists"

    @property
    def summary(self) -> str:
        """The number of runs behind the results, in one line."""
        parts = [_number(len(self.finished), "finished run")]
        if self.problems:
            parts.append(f"{len(self.problems)} without results")
        if self.replaced:
            parts.append(f"{_number(self.replaced, 'older run')} of the same cells left out")
        if self.analyses:
            parts.append(_number(len(self.analyses), "analysis", "analyses"))
        return ", ".join(parts)


def read_runs(folders: Iterable[Path | str], unlaunched: bool = False) -> Runs:
    """Read every run below `folders`; an unreadable file is recorded as a problem and does not stop the others.

    Args:
        folders: runs, sweeps, analyses, or folders of them.
        unlaunched: list the runs of sweeps too of which none began.

    Raises:
        UserError: a folder does not exist, or there is no run below any of them.
    """
    finished: dict[str, Cell] = {}
    unsuccessful: list[Cell] = []
    problems: list[Problem] = []
    replaced = 0
    roots = [Path(folder) for folder in folders]
    for order, folder in enumerate(_holding(roots, _is_run)):
        try:
            cell = replace(read_cell(folder), order=order)
        except MALFORMED as error:
            source = RESULTS if (folder / RESULTS).exists() else ".hydra"
            problems.append(Problem(folder, f"{source} cannot be read: {_reason(error)}"))
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
            missing = [Problem(sweep, f"missing: no run of {line_of(overrides)}") for overrides in missing_runs(sweep)]
            problems += missing if unlaunched or any(sweep.rglob(".hydra")) else []
        except MALFORMED as error:
            problems.append(Problem(sweep, f"{PLAN} cannot be read: {_reason(error)}"))
    analyses = tuple(_holding(roots, lambda below, files: ANALYSIS in files))
    if not finished and not problems and not analyses:
        where = ", ".join(map(str, roots)) or "nothing"
        raise UserError(f"no runs ({RESULTS} or .hydra) below {where}; give the folder of a run or a sweep")
    return Runs(tuple(finished.values()), tuple(unsuccessful), tuple(problems), replaced, analyses)


def _is_run(below: list[str], files: list[str]) -> bool:
    return RESULTS in files or (".hydra" in below and ANALYSIS not in files)


def _holding(roots: Iterable[Path], wanted: Callable[[list[str], list[str]], bool]) -> Iterator[Path]:
    """The folders at or below `roots` whose subfolder and file names satisfy `wanted`, each once."""
    seen: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder of a run or a sweep")
        found = [Path(at) for at, below, files in os.walk(root) if wanted(below, files)]
        for folder in sorted(found, key=_natural):
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def _natural(path: Path) -> list[Any]:
    """Natural sort key: run 10 follows run 9."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in path.parts]


def _written(cell: Cell) -> float:
    return (cell.folder / RESULTS).stat().st_mtime


def _reason(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else line_of(error)


def _number(count: int, what: str, several: str | None = None) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {several or what + 's'}"
