"""Names of runs and sweeps for display."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

SHORT = {"tasks": "T"}  # keys that have a symbol


def varied(typed: Sequence[str], sweep: Path) -> list[str]:
    """The overrides of a job whose keys have several values in its sweep; all overrides if this is not recorded."""
    record = sweep / "multirun.yaml"
    if not record.is_file():
        return list(typed)
    return [override for override in typed if override.partition("=")[0] in _swept(record)]


@cache
def _swept(record: Path) -> frozenset[str]:
    """The keys that take several values, by a sweep's record; read once per process, since reading it is slow."""
    hydra = OmegaConf.load(record).hydra
    params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*params, *hydra.overrides.task])
    return frozenset(override.key_or_group for override in parsed if override.is_sweep_override())


def run_name(method: str, overrides: Sequence[str]) -> str:
    """A short name of a run: its method and what differs in its sweep, as in tsv_m rank_fraction=0.1 T=8."""
    pairs = [override.partition("=")[::2] for override in overrides]
    named = [(SHORT.get(key, key.rpartition(".")[2]), value) for key, value in pairs if key != "method"]
    return " ".join([method, *(f"{name}={value}" for name, value in named)])


def sweep_name(folder: Path, experiment: str | None) -> str:
    """The name of a sweep: its experiment, its start time and its own name, taken from its folder."""
    return " ".join(filter(None, (experiment, *folder.parts[-2:])))


def suffix(name: str | None) -> str:
    """A name as the suffix of a folder, -my-name; empty without a name."""
    return "-" + re.sub(r"[^\w.-]+", "-", str(name)) if name else ""


OmegaConf.register_new_resolver("suffix", suffix, replace=True)
