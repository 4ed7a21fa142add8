"""The jobs of a sweep, determined before any of them runs."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig


def job_overrides(config: DictConfig, loader: ConfigLoader) -> Sequence[Sequence[str]]:
    """The overrides of each job of a sweep.

    Args:
        config: the composed sweep, with its node `hydra`.
        loader: lists the options that a pattern such as method=glob(*) matches.

    Returns:
        The lists that Hydra's own sweeper launches. Only those that are no choices where another sweeper chooses as it
        goes, such as Optuna's: one job with the default of what it searches.
    """
    sweeper = config.hydra.sweeper
    basic = sweeper._target_.endswith(f".{BasicSweeper.__name__}")
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()] if basic else []
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *config.hydra.overrides.task])
    jobs = BasicSweeper.split_arguments([one for one in parsed if basic or not one.is_sweep_override()], None)
    return jobs[0]


def runs_here(config: DictConfig) -> bool:
    """Whether the jobs of a sweep run in this process, one after the other."""
    return str(config.hydra.launcher._target_).endswith(".BasicLauncher")
