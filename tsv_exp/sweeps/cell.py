"""One run of a configuration, alone or in a sweep; it always writes results.json and table.md."""

import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tsv_exp.errors import UserError
from tsv_exp.runtime.imports import import_late
from tsv_exp.runtime.interrupts import unmasked
from tsv_exp.runtime.messages.failures import error_message, unexpected_message
from tsv_exp.runtime.provenance import working_copy
from tsv_exp.storage import correct_examples
from tsv_exp.storage.files import atomic
from tsv_exp.sweeps import resume
from tsv_exp.sweeps.names import run_name, sweep_name, varied
from tsv_exp.tasks.definitions import members
from tsv_exp.tracking.protocol import Description, FailsafeRun, OpenRun, Tracker

log = logging.getLogger(__name__)

SETTINGS = ("model", "router", "device", "engine", "evaluate", "save_merged")  # beside tasks, method, α and seed
VERSIONS = ("tsv_exp", "torch", "open_clip_torch", "hydra-core")


def objective(results: Mapping[str, Any]) -> float | None:
    """The best mean normalized validation accuracy, if any was measured, of those measured on the most examples."""
    points = results.get("validation") or ()
    most = max((point.get("examples", 0) for point in points), default=0)
    return max((point["mean_normalized"] for point in points if point.get("examples", 0) == most), default=None)


def run_cell(cfg: DictConfig, folder: Path, sweep: bool) -> dict[str, Any]:
    """Run one configuration and return its results; results.json and table.md in `folder` are always written.

    In a sweep, the results of an earlier run of the same cell are reused.
    """
    tracked = OpenRun()
    results: dict[str, Any] = {"status": "failed", "error": "interrupted", **describe(cfg)}
    began = time.perf_counter()
    outputs = Path(cfg.paths.outputs)
    try:
        tracker: Tracker = hydra.utils.instantiate(cfg.tracking)
        known = resume.find(resume.cell_key(cfg), outputs) if sweep and cfg.resume else None
        if known is not None:
            earlier, found = known
            results |= {"reused_from": str(earlier), **found}
            if (earlier / correct_examples.FILE).is_file():
                with atomic(folder / correct_examples.FILE) as temporary:
                    shutil.copyfile(earlier / correct_examples.FILE, temporary)
            log.info("reused from %s", earlier)
        else:
            # the run comes first: it downloads what the key depends on
            tracked = FailsafeRun(tracker, description(cfg, folder, sweep))
            with unmasked():
                found = import_late("tsv_exp.run").run(cfg, folder, tracked)
            cell = {"cell": resume.cell_key(cfg), "commits": resume.commits(cfg)}
            results |= {**found, **cell, "status": "ok", "error": None}
            log.info("done in %.1f s", time.perf_counter() - began)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        results["error"] = error_message(error)
        log.error(results["error"])
    except Exception as error:  # an unexpected error fails this run only, and is recorded
        results["error"] = unexpected_message(error, folder)
        log.error(results["error"])
        log.debug("traceback", exc_info=True)
    finally:
        if tracked.reference is not None:
            results["tracked"] = tracked.reference
        _write(results, folder)
        tracked.results(results, folder)
        tracked.close(0 if results["status"] == "ok" else 1)
    if results["status"] == "ok":
        resume.remember(results["cell"], outputs, folder)
    return results


def description(cfg: DictConfig, folder: Path, sweep: bool) -> Description:
    """The run as a tracker shows it: named by what differs in its sweep, grouped with the sweep's other runs."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    about = {"versions": _versions(), "git": working_copy()}
    hydra_config = HydraConfig.get()
    experiment = hydra_config.runtime.choices.get("experiment")
    tags = [*cfg.tags, *([experiment] if experiment else [])]
    if not sweep:
        return Description(cfg.name or cfg.method.name, "run", folder, None, tags, cfg.notes, config | about)
    choice = hydra_config.runtime.choices.get("router")
    method = cfg.method.name if choice in (None, "none") else f"{cfg.method.name} + {choice}"
    name = run_name(method, varied(hydra_config.overrides.task, folder.parent))
    group = sweep_name(folder.parent, experiment)
    return Description(name, "run", folder.parent, group, tags, cfg.notes, config | about)


def describe(cfg: DictConfig) -> dict[str, Any]:
    """The part of results.json that failed runs have too."""
    from tsv_exp.report.results.cells import parameters

    method: Any = OmegaConf.to_container(cfg.method, resolve=True)
    plain: Any = OmegaConf.to_container(cfg, resolve=False)  # ${seed} stays: runs that differ by it alone are alike
    return {
        "seed": cfg.seed,
        "model": HydraConfig.get().runtime.choices["model"],
        "tasks": members(cfg.tasks) if isinstance(cfg.tasks, str) else plain["tasks"],
        "method": method.get("name"),
        "router": HydraConfig.get().runtime.choices.get("router"),
        "params": parameters(method),
        "settings": {name: plain[name] for name in SETTINGS if name in plain} | _inputs(plain),
        "versions": _versions(),
        **{name: value for name in ("name", "tags", "notes") if (value := plain.get(name))},
    }


def _inputs(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that a method may use, for the labels of rows; nothing if there are none."""
    if not plain.get("inputs"):
        return {}
    return {"inputs": HydraConfig.get().runtime.choices["inputs"], "inputs.examples": plain["inputs"].get("examples")}


@cache
def _versions() -> Mapping[str, str]:
    return {"python": sys.version.split()[0]} | {name: version(name) for name in VERSIONS}


def _write(results: Mapping[str, Any], folder: Path) -> None:
    from tsv_exp.report.tables.single import run_table

    for name, text in (
        ("results.json", json.dumps(results, indent=1, ensure_ascii=False)),
        ("table.md", run_table(results)),
    ):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
