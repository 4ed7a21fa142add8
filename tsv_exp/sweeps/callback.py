"""The Hydra callback of a sweep: progress while jobs run, and the report at the end."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig

from tsv_exp.report.tables.formats.terminal import show
from tsv_exp.report.write import Report, write_report
from tsv_exp.runtime.console import console, output
from tsv_exp.sweeps import jobs
from tsv_exp.sweeps.expansion import runs_here
from tsv_exp.sweeps.names import sweep_name
from tsv_exp.tracking.protocol import Description, FailsafeRun


class SweepReport(Callback):
    """Writes the report into the sweep's folder; the exit code is 1 if a run has no results."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Show the progress of the jobs."""
        for killed in Path(config.paths.outputs).glob("sweeps/*/*"):
            jobs.clear_dead(killed)
        jobs.watch(Path(config.hydra.sweep.dir), ends=not runs_here(config))  # jobs here log to this console

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write, show and track the report."""
        jobs.stop_watching()
        folder = Path(config.hydra.sweep.dir)
        report = write_report([folder], folder)
        show(report.sheets, output)
        for line in report.runs.problem_lines():
            console.print(line, style="red", markup=False, soft_wrap=True)
        console.print(summary(folder, len(report.runs.problems)), markup=False, soft_wrap=True)
        output.print(f"Look at {report.paths[0]}", style="bold", markup=False, soft_wrap=True)
        _track(config, folder, report)
        if report.runs.problems:
            raise SystemExit(1)  # Hydra catches any Exception of a callback


def _track(config: DictConfig, folder: Path, report: Report) -> None:
    """The report as one more run of the sweep's group, with the runs that it reused."""
    experiment = config.hydra.runtime.choices.get("experiment")
    group = sweep_name(folder, experiment)
    tags = [*config.tags, *([experiment] if experiment else [])]
    tracked = FailsafeRun(
        instantiate(config.tracking), Description("report", "report", folder, group, tags, config.notes)
    )
    tracked.report(report, [results for results in _results(folder) if "reused_from" in results])
    tracked.close(1 if report.runs.problems else 0)


def _results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/results.json")]


def summary(folder: Path, problems: int) -> str:
    """The counts of new, reused and failed runs."""
    done = [results for results in _results(folder) if results["status"] == "ok"]
    reused = sum("reused_from" in results for results in done)
    return f"{len(done) - reused} ran, {reused} reused, {problems} without results"
