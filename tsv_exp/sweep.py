"""What a sweep does when its last run has ended: the report of all of them."""

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig

from tsv_exp import cli
from tsv_exp.report.terminal import show
from tsv_exp.report.write import write_report

log = logging.getLogger(__name__)


class SweepReport(Callback):
    """Combined tables and pictures in the sweep's folder; runs that gave no figures make the exit code non-zero."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write, show and track the report."""
        from tsv_exp.progress import console

        folder = Path(config.hydra.sweep.dir)
        report = write_report([folder], folder)
        show(report.sheets, console)
        for problem in report.runs.problems:
            console.print(f"{problem.folder}: {problem.reason}", style="red", markup=False, soft_wrap=True)
        console.print(f"{report.runs.summary}. Look at {report.paths[0]}", style="bold", markup=False, soft_wrap=True)
        instantiate(config.tracking).log_report(report, folder, folder.name)
        if report.runs.problems:
            cli.exit_code = 1
