"""The one console (standard error) and its progress bars."""

import logging
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")

console = Console(stderr=True)
_active: list[Progress] = []


class Lines(logging.Handler):
    """Log records on the console, above the bars in use: one line each, however narrow the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; errors are red."""
        style = "red" if record.levelno >= logging.ERROR else None
        console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bars() -> Iterator[Progress]:
    """The progress display in use, or a new one: bars opened inside one another share one display."""
    if _active:
        yield _active[-1]
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        _active.append(progress)
        try:
            yield progress
        finally:
            _active.pop()


@contextmanager
def bar(description: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    """One bar, advanced by hand: `progress.advance(task)`; it disappears when it is done."""
    with bars() as progress:
        task = progress.add_task(description, total=total)
        try:
            yield progress, task
        finally:
            progress.remove_task(task)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items` under a progress bar."""
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    with bar(description, total) as (progress, task):
        for item in items:
            yield item
            progress.advance(task)
