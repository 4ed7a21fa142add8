"""Progress of a sweep's jobs, wherever they run: one line for each, read from their folders."""

import json
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any

from rich.live import Live
from rich.text import Text

from tsv_exp.report.results.routing import NO_ROUTER, routed_name
from tsv_exp.runtime.console import INTERVAL, LOGGED, PROGRESS_FILE, console
from tsv_exp.runtime.messages.counts import counted
from tsv_exp.runtime.ownership import remove_abandoned


class JobMonitor(Thread):
    """Shows the running jobs below a sweep's folder; with `ends` it also prints how each job ended."""

    def __init__(self, folder: Path, ends: bool):
        super().__init__(daemon=True)
        self.folder = folder
        self.ends = ends
        self._stopped = Event()
        self._ended: set[str] = set()

    def stop(self) -> None:
        """Remove the lines."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Read the folders until `stop` is called."""
        logged = time.monotonic()
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while not self._stopped.wait(INTERVAL):
                self._say_ended()
                lines = self.lines()
                if console.is_terminal:
                    live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
                elif time.monotonic() - logged > LOGGED:
                    logged = time.monotonic()
                    for line in lines:
                        console.print(line, markup=False, soft_wrap=True, highlight=False)
        self._say_ended()

    def lines(self) -> list[str]:
        """The running jobs: number, stage, count, time left."""
        found = sorted(
            self.folder.glob(f"*/{PROGRESS_FILE}"), key=lambda path: (len(path.parent.name), path.parent.name)
        )
        return [f"#{path.parent.name} {text}" for path in found if (text := _read(path))]

    def _say_ended(self) -> None:
        for path in self.folder.glob("*/results.json") if self.ends else ():
            if path.parent.name not in self._ended:
                self._ended.add(path.parent.name)
                results = json.loads(_read(path) or "{}")
                console.print(f"#{path.parent.name} {ending(results)}", markup=False, soft_wrap=True, highlight=False)


_watches: list[JobMonitor] = []  # not attributes of the callback, which is pickled for other processes


def watch(folder: Path, ends: bool) -> None:
    """Show the jobs of the sweep in `folder` until `stop_watching`."""
    _watches.append(JobMonitor(folder, ends))
    _watches[-1].start()


def watching() -> bool:
    """Whether this process shows the progress of the jobs."""
    return bool(_watches)


def stop_watching() -> None:
    """Remove the lines of running jobs, and the progress files of killed jobs."""
    while _watches:
        monitor = _watches.pop()
        monitor.stop()
        clear_dead(monitor.folder)


def clear_dead(folder: Path) -> None:
    """Remove the progress of jobs directly below `folder` whose processes are dead."""
    for path in folder.glob(f"*/{PROGRESS_FILE}"):
        remove_abandoned(path)


def ending(results: dict[str, Any]) -> str:
    """How a run ended, in one line."""
    if results.get("status") != "ok":
        return f"failed: {results.get('error')}"
    method = routed_name(results["method"], results.get("router") or NO_ROUTER)
    run = f"{method}, {counted(len(results['tasks']), 'task')}"
    if "reused_from" in results:
        return f"{run}: reused from {results['reused_from']}"
    return f"{run}: done in {sum(results['seconds'].values()):.1f} s"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # the job has just ended
        return ""
