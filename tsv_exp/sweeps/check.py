"""The Hydra callback that checks configurations before a folder is made or a run begins."""

import copy
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tsv_exp.runtime.console import fail
from tsv_exp.runtime.failures import error_message, expected
from tsv_exp.runtime.imports import import_frozen
from tsv_exp.sweeps.expansion import job_overrides, runs_here


class ConfigurationCheck(Callback):
    """Refuses what cannot run, in one line and with exit code 1; of a sweep every job is checked first."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check a single run."""
        _refuse_invalid(config, here=True)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the jobs of a sweep; devices only where they run in this process."""
        loader = GlobalHydra.instance().config_loader()
        try:
            jobs = [
                (overrides, loader.load_sweep_config(config, [*overrides]))
                for overrides in job_overrides(config, loader)
            ]
        except Exception as error:
            raise _refusal(error) from error
        for overrides, job in jobs:
            _refuse_invalid(job, runs_here(config), " ".join(overrides))


def _refuse_invalid(config: DictConfig, here: bool, job: str = "") -> None:
    HydraConfig.instance().set_config(copy.deepcopy(config))  # its search path has the tasks
    try:
        import_frozen("tsv_exp.evaluation.checks").check_configuration(config, here)
    except Exception as error:
        raise _refusal(error, job) from error


def _refusal(error: Exception, job: str = "") -> SystemExit:
    """The end of the process; of other exceptions in a callback Hydra makes warnings."""
    text = (
        error_message(error)
        if expected(error)
        else f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
    )
    return SystemExit(fail("tsv-exp", f"{text} (in the run {job})" if job else text, 1))
