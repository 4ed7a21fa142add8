"""Finished runs and reports in Weights & Biases; the only file that imports wandb, and only when something is tracked.

Everything is read from results that are already on disk, so that no failure of tracking can cost a run its results.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tsv_exp.errors import UserError
from tsv_exp.report.results.cells import from_results
from tsv_exp.report.tables.assemble import single
from tsv_exp.report.tables.groups import Group, columns
from tsv_exp.report.tables.sheets import Sheet, alpha_range
from tsv_exp.report.write import Report

log = logging.getLogger(__name__)


class Tracker:
    """No tracking (tracking=none)."""

    def log_run(self, results: Mapping[str, Any], config: Mapping[str, Any], folder: Path, group: str | None) -> None:
        """Track one run.

        Args:
            results: its results.json.
            config: its resolved configuration, in plain containers.
            folder: where local tracking files go: the run's folder, or the sweep's, which one command then syncs.
            group: the name of the sweep; None for a single run, which has its table and picture tracked too.
        """

    def log_report(self, report: Report, folder: Path, group: str) -> None:
        """Track the combined tables, pictures and page of a sweep."""


@dataclass(frozen=True)
class WandbTracker(Tracker):
    """Weights & Biases: `mode` offline (files only, no account) or online; `entity` None is the account's default."""

    mode: Literal["offline", "online"] = "offline"
    project: str = "tsv_exp"
    entity: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online"):
            raise UserError(f"tracking.mode={self.mode}: choose offline or online (or tracking=none)")

    def log_run(self, results: Mapping[str, Any], config: Mapping[str, Any], folder: Path, group: str | None) -> None:
        """Track one run: config, accuracies, the α curve and timings."""
        name = str(results.get("method"))
        with _harmless("run", folder), self._run("run", name, folder, group, config) as run:
            run.define_metric("validation/*", step_metric="alpha")
            for point in results.get("validation") or ():
                run.log({"alpha": point["alpha"], **_flat("validation", point)})
            final = {name: results[name] for name in ("status", "error", "alpha", "stored_bytes") if name in results}
            run.summary.update(
                {**final, **_flat("test", results.get("test") or {}), **_flat("seconds", results.get("seconds") or {})}
            )
            if group is None and results["status"] == "ok":
                groups = [single(from_results(results, folder))]
                _log_tables(run, groups)
                with TemporaryDirectory() as pictures:
                    _log_files(run, _pictures(groups, Path(pictures)))

    def log_report(self, report: Report, folder: Path, group: str) -> None:
        """Track the tables, pictures and page of a sweep, as one more run of its group, or of an analysis."""
        with _harmless("report", folder), self._run("report", "report", folder, group, {}) as run:
            _log_tables(run, report.groups)
            _log_sheets(run, () if report.groups else report.sheets)
            _log_files(run, report.paths)

    @contextmanager
    def _run(self, kind: str, name: str, folder: Path, group: str | None, config: Mapping[str, Any]) -> Iterator[Any]:
        """A run of this project, finished whatever happens."""
        import wandb

        # of no use for a run that is over; the list of installed packages alone costs six times the rest
        useless = {"x_disable_stats": True, "x_disable_meta": True, "disable_git": True, "x_save_requirements": False}
        quiet = wandb.Settings(silent=True, console="off", **useless)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            dir=folder,
            group=group,
            job_type=kind,
            name=name,
            config=dict(config),
            reinit="create_new",
            settings=quiet,
        )
        try:
            yield run
        finally:
            run.finish()


@contextmanager
def _harmless(kind: str, folder: Path) -> Iterator[None]:
    """What goes wrong inside is one line of warning."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (whatever a service does, the results on disk stand)
        reason = " ".join(str(error).split()) or type(error).__name__
        log.warning("tracking: the %s in %s was not tracked: %s", kind, folder, reason)


def _log_tables(run: Any, groups: Sequence[Group]) -> None:
    import wandb

    for group in groups:
        table = wandb.Table(columns=["method", *(heading for heading, _ in columns(group)), "alpha", "size"])
        for row in group.rows:
            figures = [figure(row) for _, figure in columns(group)]
            table.add_data(row.label, *(f and round(100 * f.mean, 2) for f in figures), alpha_range(row), row.size)
        run.log({f"table/{group.title}": table})


def _log_sheets(run: Any, sheets: Sequence[Sheet]) -> None:
    """The tables of a report without runs, such as an analysis."""
    import wandb

    for sheet in sheets:
        table = wandb.Table(columns=[sheet.first, *sheet.headings])
        for line in sheet.lines:
            table.add_data(line.label, *(entry.value for entry in line.entries))
        run.log({f"table/{sheet.title}": table})


def _pictures(groups: Sequence[Group], folder: Path) -> list[Path]:
    from tsv_exp.report.plots.pictures import draw_pictures

    return [path for picture in draw_pictures(groups, folder, kinds=("png",)) for path in picture.paths]


def _log_files(run: Any, paths: Sequence[Path]) -> None:
    """Pictures and pages, as what a browser shows."""
    import wandb

    shown = {".png": wandb.Image, ".html": wandb.Html}
    for path in paths:
        if path.suffix in shown:
            run.log({f"report/{path.stem}": shown[path.suffix](str(path))})


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, keys joined by slashes."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(f"{prefix}/{name}", value) if isinstance(value, Mapping) else {f"{prefix}/{name}": value}
    return flat
