"""The work of tsv-analyze: computes measures of weights, tables and plots."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tsv_exp.analyze.analysis import analyze, check_count, propose
from tsv_exp.arguments import check_nodes
from tsv_exp.checkpoints.sources import local, open_models, open_weights
from tsv_exp.config import EXCLUDE, Engine, plain_values
from tsv_exp.errors import UserError
from tsv_exp.evaluation.checks.model import check_paths
from tsv_exp.merge_files.options.paths import named, paths
from tsv_exp.merging.layer import Weights
from tsv_exp.methods.singular_vectors import components_per_task
from tsv_exp.models.protocol import Model
from tsv_exp.report.write import Report
from tsv_exp.runtime.console import bar, output
from tsv_exp.runtime.devices import device_of
from tsv_exp.tasks.definitions import selected

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> Report:
    """Measure what the configuration names and write it into `folder`."""
    settings: Any = OmegaConf.to_container(cfg.engine)
    engine = Engine(**settings)
    with bar("opening the weights", None):
        from tsv_exp.analyze.write import summary, write_analysis  # a slow import: matplotlib

        name, base, models, exclude = weights(cfg, engine)
    if cfg.select is not None:
        check_count(cfg.select, len(models))  # checked before the long computation
    analysis = analyze(
        base,
        models,
        cfg.rank_fraction,
        cfg.select,
        engine=engine.of(exclude),
        device=cfg.device and device_of(cfg.device),
    )
    proposals = propose(analysis, cfg.select) if cfg.select else []
    report = write_analysis(analysis, proposals, folder, name)
    found = [f"{summary(analysis)}. Wrote {len(report.paths)} files to {folder}"]
    if proposals:
        best = proposals[0]
        found.insert(
            0, f"Least interference among {len(proposals)} choices: {', '.join(best.tasks)} ({best.score:.4g})"
        )
    for line in found:
        output.print(line, markup=False, highlight=False, soft_wrap=True)
        log.debug(line)
    output.print(f"Look at {report.paths[0]}", style="bold", markup=False, soft_wrap=True)
    return report


def weights(cfg: DictConfig, engine: Engine) -> tuple[str, Weights, Mapping[str, Weights], Sequence[str]]:
    """Name, base, fine-tuned weights by task, and excluded parameters: the model's, or those of given checkpoints."""
    given = _given(cfg)
    if cfg.base is None:
        chosen = selected(plain_values(cfg))
        model: Model = instantiate(cfg.model)
        tasks = [model.task(name, definition) for name, definition in chosen]
        return model.name, model.base(), model.finetuned(tasks), model.exclude
    base = open_weights(cfg.base)
    return str(cfg.base), base, open_models(_paths(given), base, engine.keep, engine.ignore), EXCLUDE


def _paths(given: Any) -> dict[str, str]:
    """The paths that `models` names, by task; a mapping on the command line is one text."""
    if isinstance(given, str) and given.startswith("{"):
        given = paths(given)
    if isinstance(given, dict):
        return {str(task): path for task, path in given.items()}
    return named([str(path) for path in (given if isinstance(given, list) else [given])]) if given else {}


def _given(cfg: DictConfig) -> Any:
    given: Any = OmegaConf.to_container(cfg.models) if OmegaConf.is_config(cfg.models) else cfg.models
    if (cfg.base is None) != (not given):
        raise UserError("base and models belong together: base=PATH 'models=[PATH,PATH]', or neither of them")
    return given


def check(cfg: DictConfig, here: bool = True) -> None:
    """Check what can be known to be wrong before weights are loaded.

    Raises:
        UserError: something in the configuration is invalid.
    """
    plain = plain_values(cfg)
    for group in ("model", "tracking"):
        check_nodes(group, plain[group])
    Engine(**plain["engine"])
    instantiate(cfg.tracking)
    if here and cfg.device is not None:
        device_of(cfg.device)
    places, tasks = _paths(_given(cfg)), [] if cfg.base is not None else selected(plain)
    if cfg.select is not None:
        check_count(cfg.select, len(places or tasks))
    if here and cfg.base is not None:
        for place in (cfg.base, *places.values()):
            local(place)
    elif here:
        check_paths(instantiate(cfg.model), tasks)
    components_per_task((1, 1), 1, cfg.rank_fraction)  # refuses what is no share
