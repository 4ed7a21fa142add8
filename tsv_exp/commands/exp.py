"""tsv-exp: one run, or with -m a sweep; imports torch only after the configuration has been checked."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tsv_exp.commands.app.guard import run_command
from tsv_exp.commands.app.hydra_app import hydra_app
from tsv_exp.runtime.console import ConsoleHandler, output, progress_in_file
from tsv_exp.runtime.interrupts import catch_signals
from tsv_exp.sweeps import jobs, workers
from tsv_exp.sweeps.cell import objective, run_cell


def main() -> int:
    """Run the command: returns 0 only if everything succeeded."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # disables Ray's usage statistics
    try:
        return run_command("tsv-exp", _app, _resume_hint)
    finally:
        jobs.stop_watching()


def _resume_hint() -> str:
    return "finished runs are saved; run the same sweep again to reuse them" if jobs.watching() else ""


@hydra_app("config")
def _app(cfg: DictConfig) -> float | None:
    """Execute one run; returns the objective for sweepers that search. A failed single run exits with status 1."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    with _job(folder) if sweep else nullcontext():
        results = run_cell(cfg, folder, sweep)
    if not sweep:
        _show(results, folder)
        if results["status"] != "ok":
            raise SystemExit(1)
    return objective(results)


@contextmanager
def _job(folder: Path) -> Iterator[None]:
    """A job of a sweep, in this or another process; the main process shows its progress."""
    if not jobs.watching():
        root = logging.getLogger()
        for handler in [one for one in root.handlers if isinstance(one, ConsoleHandler)]:
            root.removeHandler(handler)
        workers.claim_gpu(HydraConfig.get().job.num)
    with progress_in_file(folder, HydraConfig.get().job.override_dirname):
        yield


def _show(results: Mapping[str, Any], folder: Path) -> None:
    from rich.markdown import Markdown

    if results["status"] == "ok":
        output.print(Markdown((folder / "table.md").read_text(encoding="utf-8")))
    output.print(f"Results: {folder}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    from tsv_exp.commands.exp import (
        main as _main,  # imported under its own name: launchers pickle what __main__ defines
    )

    catch_signals()
    sys.exit(_main())
