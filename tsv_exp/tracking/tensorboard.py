"""Runs and reports as TensorBoard's event files: `tensorboard --logdir outputs` shows them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsv_exp.report.write import Report
from tsv_exp.tracking.content import Table, flat, key, report_tables, single_run, summary
from tsv_exp.tracking.protocol import Description, OpenRun, needs

FOLDER = "tensorboard"
STEPS = 1000  # steps per unit of α: TensorBoard's steps are integers


@dataclass(frozen=True)
class TensorBoardTracker:
    """Local event files in the run's folder; no account, no service."""

    def __post_init__(self) -> None:
        needs("tensorboard")

    def open(self, description: Description) -> OpenRun:
        """Open an event file; the runs of a sweep are sibling folders."""
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(description.folder / FOLDER / key(description.name)))
        about = {"group": description.group, "tags": ", ".join(description.tags), "notes": description.notes}
        for name, value in about.items():
            if value:
                writer.add_text(name, str(value))
        return TensorBoardRun(writer, description)


class TensorBoardRun(OpenRun):
    """One run: scalars, texts and plots."""

    def __init__(self, writer: Any, description: Description):
        self._writer = writer
        self._description = description

    @property
    def reference(self) -> str:
        """The folder of its event file."""
        return str(self._writer.log_dir)

    def stage(self, name: str) -> None:
        """Log the stage as text, with its time."""
        self._writer.add_text("stage", name)

    def point(self, point: Mapping[str, Any]) -> None:
        """Log scalars over α: step 1300 is α = 1.3."""
        for name, value in flat("validation", {n: v for n, v in point.items() if n != "alpha"}).items():
            self._writer.add_scalar(name, value, round(point["alpha"] * STEPS))
        self._writer.flush()

    def results(self, results: Mapping[str, Any], folder: Path) -> None:
        """Log the summary as scalars, and the configuration, table and plots of a single run."""
        found = summary(results)
        figures = {name: value for name, value in found.items() if isinstance(value, int | float)}
        config = flat("config", self._description.config)
        plain = {name: value for name, value in config.items() if isinstance(value, bool | int | float | str)}
        self._writer.add_hparams(plain, figures, run_name=".")
        self._writer.add_text("status", f"{results['status']} {results.get('error') or ''}".strip())
        if self._description.group is None:
            with single_run(results, folder) as (tables, pictures):
                self._show(tables, pictures)

    def report(self, report: Report, reused: Sequence[Mapping[str, Any]]) -> None:
        """Log tables as Markdown, and the plots."""
        self._show(report_tables(report, reused), report.paths)

    def close(self, exit_code: int) -> None:
        """Log the exit code as a scalar and close the file."""
        self._writer.add_scalar("exit_code", exit_code)
        self._writer.close()

    def _show(self, tables: Iterable[Table], paths: Iterable[Path]) -> None:
        import numpy as np
        from PIL import Image

        for table in tables:
            self._writer.add_text(table.key, _markdown(table))
        for path in paths:
            if path.suffix == ".png":
                pixels = np.asarray(Image.open(path).convert("RGB"))
                self._writer.add_image(f"report/{key(path.stem)}", pixels, dataformats="HWC")


def _markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join('' if value is None else str(value) for value in line)} |" for line in lines)
