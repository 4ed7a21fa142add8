"""The consoles, and the progress line: current stages, their counts and the remaining time.

Results go to `output` (standard output); progress, logs and errors to `console` (standard error).
"""

import logging
import os
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

PROGRESS_FILE = ".progress"  # in the folder of a running job of a sweep
INTERVAL = 0.5  # seconds between two updates of the file
LOGGED = 30.0  # seconds between two log lines without a terminal

log = logging.getLogger(__name__)


class ResilientConsole(Console):
    """Continues in silence if the reader of its pipe has gone (`tsv-merge ... 2>&1 | head -1`): results go to files."""

    def on_broken_pipe(self) -> None:
        """Discard this and all later output; the rest of a buffer is flushed at exit, which must not fail either."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


console = ResilientConsole(stderr=True, highlight=False)  # paths and numbers in one colour
output = ResilientConsole(highlight=False)
_active: list["ProgressLine"] = []
_destination: tuple[Path | None, str] = (None, "")


def fail(command: str, message: str, code: int) -> int:
    """Print one line with the reason why a command fails; returns the exit code."""
    console.print(f"{command}: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return code


class ProgressLine(Progress):
    """Nested stages as one line: on a terminal, in a file for another process, or logged."""

    def __init__(self, file: Path | None = None, label: str = "", quiet: bool = False):
        shown = not quiet and file is None
        super().__init__(console=console, transient=True, disable=not (shown and console.is_terminal))
        self.file = file
        self.label = label
        self.level = logging.INFO if shown and not console.is_terminal else logging.DEBUG
        self.quiet = quiet
        self._reported = time.monotonic() if file is None else 0.0

    def get_renderables(self) -> Iterable[RenderableType]:
        """Render the line."""
        yield Text(line(self.tasks), no_wrap=True, overflow="ellipsis")

    def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:
        """Add a stage and report it."""
        added = super().add_task(description, *arguments, **options)
        if not self.quiet:
            log.log(self.level, description)
        self._report()
        return added

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a stage and report it at intervals."""
        super().advance(task_id, advance)
        self._report()

    def _report(self) -> None:
        if time.monotonic() - self._reported < (LOGGED if self.file is None else INTERVAL):
            return
        self._reported = time.monotonic()
        if self.file is not None:
            self.file.write_text(f"{line(self.tasks)}  {self.label}", encoding="utf-8")
        elif not self.quiet:
            log.log(self.level, line(self.tasks))


def line(stages: Sequence[Task]) -> str:
    """The stages, outermost first, and the remaining time of the outermost stage that has an estimate."""
    counts = [f" {stage.completed:.0f}/{stage.total:.0f}" if stage.total else "" for stage in stages]
    names = [stage.description + count for stage, count in zip(stages, counts, strict=True)]
    left = next((stage.time_remaining for stage in stages if stage.time_remaining is not None), None)
    return " › ".join(names) + ("" if left is None else f", {timedelta(seconds=left)} left")


class ConsoleHandler(logging.Handler):
    """Prints log records above the active progress line: one line each, without wrapping."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; errors are red."""
        style = "red" if record.levelno >= logging.ERROR else None
        console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_in_file(folder: Path, label: str) -> Iterator[None]:
    """Write progress to a temporary file in `folder` instead of the console."""
    global _destination
    _destination = folder / PROGRESS_FILE, label
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PROGRESS_FILE).open("w", encoding="utf-8") as file:
        hold(file.fileno())  # locked while this process lives, so that readers can tell
        try:
            yield
        finally:
            _destination = None, ""
            (folder / PROGRESS_FILE).unlink(missing_ok=True)


@contextmanager
def silent() -> Iterator[None]:
    """Show no progress inside this context."""
    _active.append(ProgressLine(quiet=True))
    try:
        yield
    finally:
        _active.pop()


@contextmanager
def bars() -> Iterator[ProgressLine]:
    """The active progress line, or a new one: nested stages share it."""
    if _active:
        yield _active[-1]
        return
    with ProgressLine(*_destination) as progress:
        _active.append(progress)
        try:
            yield progress
        finally:
            _active.pop()


def on_terminal() -> bool:
    """Whether progress is shown on the terminal: there is one, and progress goes neither to a file nor nowhere."""
    return not (_active[-1] if _active else ProgressLine(*_destination)).disable


@contextmanager
def bar(description: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    """Show one stage, advanced with `progress.advance(task)` and removed at the end."""
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
