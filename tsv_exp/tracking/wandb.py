"""Runs and reports in Weights & Biases."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tsv_exp.errors import UserError
from tsv_exp.report.write import Report
from tsv_exp.storage.digests import digest
from tsv_exp.tracking.content import Table, flat, key, report_tables, single_run, summary
from tsv_exp.tracking.protocol import Description, OpenRun, needs


@dataclass(frozen=True)
class WandbTracker:
    """Weights & Biases.

    Args:
        mode: offline (files only, no account) or online.
        project: the project of the runs.
        entity: a user or team; None: the account's default.
        weights: whether a saved merged model (save_merged=true) is uploaded as an artifact.
    """

    mode: Literal["offline", "online"] = "offline"
    project: str = "tsv_exp"
    entity: str | None = None
    weights: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online"):
            raise UserError(f"tracking.mode={self.mode}: choose offline or online (or tracking=none)")
        needs("wandb")

    def open(self, description: Description) -> OpenRun:
        """Start a run with system metrics and console output."""
        import wandb

        # listing the installed packages takes six times as long as the rest
        settings = wandb.Settings(silent=True, console="wrap", x_save_requirements=False)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            dir=description.folder,
            group=description.group,
            job_type=description.kind,
            name=description.name,
            tags=list(description.tags),
            notes=description.notes,
            config=dict(description.config),
            reinit="create_new",
            settings=settings,
        )
        run.define_metric("alpha", hidden=True)
        run.define_metric("validation/*", step_metric="alpha", summary="none")
        return WandbRun(run, description.group is None, self.weights)


class WandbRun(OpenRun):
    """One run; `alone`: it is not part of a sweep, so it logs its own table."""

    def __init__(self, run: Any, alone: bool, weights: bool):
        self._run = run
        self._alone = alone
        self._weights = weights

    @property
    def reference(self) -> str:
        """The path of the run."""
        return "/".join(filter(None, (self._run.entity, self._run.project, self._run.id)))

    def stage(self, name: str) -> None:
        """Set the stage in the summary, which is updated during the run."""
        self._run.summary["stage"] = name

    def point(self, point: Mapping[str, Any]) -> None:
        """Log a step of the history."""
        self._run.log({"alpha": point["alpha"], **flat("validation", _without_alpha(point))})

    def results(self, results: Mapping[str, Any], folder: Path) -> None:
        """Log summary, configuration and artifacts: input checkpoints, results and, if configured, weights."""
        self._run.config.update({name: results[name] for name in ("provenance", "checkpoints") if name in results})
        self._run.summary.update(summary(results))
        if self._alone:
            with single_run(results, folder) as (tables, pictures):
                self._show(tables, pictures)
        if "checkpoints" in results and not self._run.offline:  # the service records lineage; offline there is none
            self._run.use_artifact(_checkpoints(results))
        self._keep("results", [folder / "results.json", folder / "table.md"], {"status": results["status"]})
        if self._weights and results.get("saved"):
            facts = {name: results[name] for name in ("method", "params", "alpha", "tasks") if name in results}
            self._keep("model", [Path(path) for path in results["saved"]], facts)

    def report(self, report: Report, reused: Sequence[Mapping[str, Any]]) -> None:
        """Log tables, plots and page; the files are also an artifact."""
        self._show(report_tables(report, reused), report.paths)
        self._keep("report", report.paths, {})

    def close(self, exit_code: int) -> None:
        """End the run; its state is failed if the exit code is not 0."""
        self._run.finish(exit_code=exit_code)

    def _show(self, tables: Iterable[Table], paths: Iterable[Path]) -> None:
        import wandb

        for table in tables:
            self._run.log({table.key: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])})
        shown = {".png": wandb.Image, ".html": wandb.Html}
        for path in paths:
            if path.suffix in shown:
                self._run.log({f"report/{key(path.stem)}": shown[path.suffix](str(path))})

    def _keep(self, kind: str, paths: Iterable[Path], metadata: Mapping[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind, metadata=dict(metadata))
        for path in paths:
            if path.is_dir():
                artifact.add_dir(str(path), name=path.name)
            elif path.is_file():
                artifact.add_file(str(path))
        self._run.log_artifact(artifact)


def _checkpoints(results: Mapping[str, Any]) -> Any:
    """The checkpoints of a run as an artifact of digests; runs with the same checkpoints share it."""
    import wandb

    digests = results["checkpoints"].get("digests", {})
    artifact = wandb.Artifact(f"checkpoints-{digest(digests)[:12]}", type="checkpoints", metadata=dict(digests))
    with artifact.new_file("digests.json") as file:
        file.write(json.dumps(digests, indent=1))
    return artifact


def _without_alpha(point: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name != "alpha"}
