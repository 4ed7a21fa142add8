"""The consoles, and what is under way in one line: its stages, how far they are, how long yet.

Results go to `output` (standard output); progress, logs and errors to `console` (standard error).
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import Progress, Task, TaskID
from rich.text import Text

from tsv_exp.runtime.ownership import hold

Item = TypeVar("Item")

PROGRESS_FILE = ".progress"  # in the folder of a run that is under way in a sweep
INTERVAL = 0.5  # seconds between two lines told
LOGGED = 30.0  # seconds between two lines where there is no terminal

log = logging.getLogger(__name__)
console = Console(stderr=True, highlight=False)  # paths and numbers in one colour
output = Console(highlight=False)
_active: list["ProgressLine"] = []
_destination: tuple[Path | None, str] = (None, "")


def fail(command: str, message: str, code: int) -> int:
    """Say in one line why a command ends; its exit code is returned."""
    console.print(f"{command}: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return code


class ProgressLine(Progress):
    """Stages, opened inside one another, as one line: on a terminal, in a file for another process, or logged."""

    def __init__(self, file: Path | None = None, label: str = "", quiet: bool = False):
        shown = not quiet and file is None
        super().__init__(console=console, transient=True, disable=not (shown and console.is_terminal))
        self.file = file
        self.label = label
        self.level = logging.INFO if shown and not console.is_terminal else logging.DEBUG
        self.quiet = quiet
        self._told = time.monotonic() if file is None else 0.0

    def get_renderables(self) -> Iterable[RenderableType]:
        """The line."""
        yield Text(line(self.tasks), no_wrap=True, overflow="ellipsis")

    def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:
        """As rich's."""
        added = super().add_task(description, *arguments, **options)
        if not self.quiet:
            log.log(self.level, description)
        self._tell()
        return added

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As rich's."""
        super().advance(task_id, advance)
        self._tell()

    def _tell(self) -> None:
        if time.monotonic() - self._told < (LOGGED if self.file is None else INTERVAL):
            return
        self._told = time.monotonic()
        if self.file is not None:
            self.file.write_text(f"{line(self.tasks)}  {self.label}", encoding="utf-8")
        elif not self.quiet:
            log.log(self.level, line(self.tasks))


def line(stages: Sequence[Task]) -> str:
    """The stages, the outermost first, and the time left of the outermost of which it is known."""
    counts = [f" {stage.completed:.0f}/{stage.total:.0f}" if stage.total else "" for stage in stages]
    names = [stage.description + count for stage, count in zip(stages, counts, strict=True)]
    left = next((stage.time_remaining for stage in stages if stage.time_remaining is not None), None)
    return " › ".join(names) + ("" if left is None else f", {timedelta(seconds=left)} left")


class ConsoleHandler(logging.Handler):
    """Log records on the console, above the bars in use: one line each, however narrow the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; errors are red."""
        style = "red" if record.levelno >= logging.ERROR else None
        console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_in_file(folder: Path, label: str) -> Iterator[None]:
    """Progress inside goes to a file in `folder`, which is gone afterwards, in place of the console."""
    global _destination
    _destination = folder / PROGRESS_FILE, label
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PROGRESS_FILE).open("w", encoding="utf-8") as file:
        hold(file.fileno())  # who looks at it knows whether this process lives
        try:
            yield
        finally:
            _destination = None, ""
            (folder / PROGRESS_FILE).unlink(missing_ok=True)


@contextmanager
def silent() -> Iterator[None]:
    """What is done inside shows no progress."""
    _active.append(ProgressLine(quiet=True))
    try:
        yield
    finally:
        _active.pop()


@contextmanager
def bars() -> Iterator[ProgressLine]:
    """The line in use, or a new one: stages opened inside one another share it."""
    if _active:
        yield _active[-1]
        return
    with ProgressLine(*_destination) as progress:
        _active.append(progress)
        try:
            yield progress
        finally:
            _active.pop()


@contextmanager
def bar(description: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    """One stage, advanced by hand: `progress.advance(task)`; it disappears when it is done."""
    with bars() as progress:
        task = progress.add_task(description, total=total)
        try:
            yield progress, task
        finally:
            progress.remove_task(task)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items` as one stage."""
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    with bar(description, total) as (progress, task):
        for item in items:
            yield item
            progress.advance(task)
