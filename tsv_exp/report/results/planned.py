"""The runs of a sweep that are not there (yet): what its multirun.yaml asked for, less what its run folders did."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from tsv_exp.config import conf_dir

PLAN = "multirun.yaml"


def missing_runs(sweep: Path) -> Iterator[str]:
    """The overrides of every run that the plan of `sweep` names and none of its run folders has.

    Other sweepers than Hydra's basic one choose their runs as they go: there is nothing to miss.

    Raises:
        OSError, ValueError, TypeError, KeyError: the plan, or what a run folder says of itself, cannot be read.
    """
    plan = yaml.safe_load((sweep / PLAN).read_text(encoding="utf-8"))["hydra"]
    if not plan["sweeper"]["_target_"].endswith(".BasicSweeper"):
        return
    # an import of 0.2 s that only sweeps need
    from hydra.core.override_parser.overrides_parser import OverridesParser

    asked = [f"{name}={value}" for name, value in (plan["sweeper"].get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*asked, *plan["overrides"]["task"]])
    choices = {override.get_key_element(): _choices(override) for override in overrides}  # the command line comes last
    found = sweep.rglob(".hydra/overrides.yaml")
    done = {frozenset(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in found}
    for run in product(*choices.values()):
        if frozenset(run) not in done:
            yield " ".join(run)


def _choices(override: Any) -> list[str]:
    """What an override stands for in each run, as Hydra writes it into the run's folder."""
    from hydra.core.override_parser.types import Glob

    name = override.get_key_element()
    if isinstance(override.value(), Glob):
        options = sorted(path.stem for path in (conf_dir() / name).glob("[!_]*.yaml"))
        return [f"{name}={option}" for option in override.value().filter(options)]
    if override.is_sweep_override():
        return [f"{name}={value}" for value in override.sweep_string_iterator()]
    return [f"{name}={override.get_value_element_as_str()}"]
