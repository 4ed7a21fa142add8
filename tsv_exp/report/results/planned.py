"""Missing runs of a sweep: the runs planned in its multirun.yaml minus its run folders."""

from collections.abc import Iterator
from itertools import compress, islice, product
from math import prod
from pathlib import Path
from typing import Any

from tsv_exp.config import conf_dir, with_router
from tsv_exp.report.results.checks import read_yaml

PLAN = "multirun.yaml"
_MOST = 100_000  # most runs of a sweep


def missing_runs(sweep: Path) -> Iterator[str]:
    """The overrides that differ within `sweep`, of every run that is in its plan but has no run folder.

    Sweepers other than Hydra's basic one choose their runs dynamically, so none are missing.

    Raises:
        OSError, ValueError, TypeError, KeyError: the plan or the overrides in a run folder cannot be read.
    """
    plan = read_yaml(sweep / PLAN)["hydra"]
    if not plan["sweeper"]["_target_"].endswith(".BasicSweeper"):
        return
    # a slow import (0.2 s) that only sweeps need
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    asked = [f"{name}={value}" for name, value in (plan["sweeper"].get("params") or {}).items()]
    try:
        overrides = OverridesParser.create().parse_overrides([*asked, *plan["overrides"]["task"]])
    except HydraException as error:
        raise ValueError(f"an override cannot be read: {error}") from error
    choices = {override.get_key_element(): _choices(override) for override in overrides}  # the command line comes last
    if prod(map(len, choices.values())) > _MOST:
        raise ValueError(f"more than {_MOST} runs")
    found = sweep.rglob(".hydra/overrides.yaml")
    done = {frozenset(map(_unquoted, read_yaml(path))) for path in found}
    differing = [len(values) > 1 for values in choices.values()]
    for run in product(*choices.values()):
        if frozenset(_unquoted(one) for word in run for one in with_router(word)) not in done:
            yield " ".join(compress(run, differing) if any(differing) else run)


def _unquoted(override: str) -> str:
    """An override without the quotes around its value: plan and run folders quote paths differently."""
    name, _, value = override.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return f"{name}={value[1:-1] if quoted else value}"


def _choices(override: Any) -> list[str]:
    """The values of an override, one per run, as Hydra writes them into the run folders."""
    from hydra.core.override_parser.types import Glob

    name = override.get_key_element()
    if isinstance(override.value(), Glob):
        options = sorted(path.stem for path in (conf_dir() / name).glob("[!_]*.yaml"))
        return [f"{name}={option}" for option in override.value().filter(options)]
    if override.is_sweep_override():
        return [f"{name}={value}" for value in islice(override.sweep_string_iterator(), _MOST + 1)]
    return [f"{name}={override.get_value_element_as_str()}"]
