"""tsv-analyze: interference of the tasks of a model, or of any fine-tuned models of one base."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from tsv_exp.analyze.analysis import analyze, check_count, propose
from tsv_exp.analyze.write import summary, write_analysis
from tsv_exp.checkpoints.sources import open_weights
from tsv_exp.commands.guard import error_guard, run_command
from tsv_exp.commands.hydra_app import hydra_app
from tsv_exp.config import EXCLUDE, Engine
from tsv_exp.errors import UserError
from tsv_exp.merge_files.paths import named
from tsv_exp.merging.layer import Weights
from tsv_exp.models.protocol import Model
from tsv_exp.report.write import Report
from tsv_exp.tasks.definitions import selected

log = logging.getLogger(__name__)


def main() -> int:
    """The command: 0 when everything was written, else one line on standard error and 1."""
    return run_command("tsv-analyze", _app)


@hydra_app("analyze")
def _app(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    with error_guard("tsv-analyze"):
        report = run(cfg, folder)
        instantiate(cfg.tracking).log_report(report, folder, "analyze")


def run(cfg: DictConfig, folder: Path) -> Report:
    """Measure what the configuration names and write it into `folder`."""
    engine = Engine(**cfg.engine)
    name, base, models, exclude = weights(cfg)
    if cfg.select is not None:
        check_count(cfg.select, len(models))  # before the long work
    analysis = analyze(base, models, cfg.rank_fraction, cfg.select, engine=engine.of(exclude), device=cfg.device)
    proposals = propose(analysis, cfg.select) if cfg.select else []
    report = write_analysis(analysis, proposals, folder, name)
    found = [f"{summary(analysis)}. Wrote {len(report.paths)} files to {folder}"]
    if proposals:
        best = proposals[0]
        found.insert(
            0, f"Least interference among {len(proposals)} choices: {', '.join(best.tasks)} ({best.score:.4g})"
        )
    out = Console(soft_wrap=True, highlight=False, markup=False)
    for line in found:
        out.print(line)
        log.info(line)
    out.print(f"Look at {report.paths[0]}", style="bold")
    return report


def weights(cfg: DictConfig) -> tuple[str, Weights, Mapping[str, Weights], Sequence[str]]:
    """A name, the base, the fine-tuned weights by task, and what is excluded: the model's, or of checkpoints given."""
    given: Any = OmegaConf.to_container(cfg.models) if OmegaConf.is_config(cfg.models) else cfg.models
    if (cfg.base is None) != (not given):
        raise UserError("base and models belong together: base=PATH 'models=[PATH,PATH]', or neither of them")
    if cfg.base is None:
        chosen = selected(cfg)
        model: Model = instantiate(cfg.model)
        tasks = [model.task(name, definition) for name, definition in chosen]
        return model.name, model.base(), model.finetuned(tasks), model.exclude
    base = open_weights(cfg.base)
    several = given if isinstance(given, dict | list) else [given]
    paths = several if isinstance(several, dict) else named([str(path) for path in several])
    return str(cfg.base), base, {str(task): open_weights(path, base) for task, path in paths.items()}, EXCLUDE
