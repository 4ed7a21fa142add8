"""The Hydra callback that checks configurations before a folder is made or a run begins."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tsv_exp.runtime.console import bar, console, fail, silent
from tsv_exp.runtime.imports import import_late
from tsv_exp.runtime.messages.failures import error_message, expected
from tsv_exp.sweeps.expansion import job_overrides, runs_here


class ConfigurationCheck(Callback):
    """Refuses invalid configurations with one line and exit code 1; checks every job of a sweep before the first runs.

    Args:
        command: whose configuration it is.
        check: path of a function of the configuration, and of whether the computer at hand will run it.
    """

    def __init__(self, command: str, check: str):
        self.command = command
        self.check = check

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check a single run."""
        _search_as(config)
        with _stage("checking the configuration"):
            self._refuse_invalid(config, here=True)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the jobs of a sweep; devices only where they run in this process."""
        _search_as(config)
        with _stage("checking the configurations"):
            loader: Any = GlobalHydra.instance().config_loader()
            with self._refused():
                jobs = [list(overrides) for overrides in job_overrides(config, loader)]
            common = set.intersection(*map(set, jobs))
            for overrides in jobs:
                with self._refused():
                    job = loader.load_values(config, overrides)
                apart = [one for one in overrides if one not in common]
                self._refuse_invalid(job, runs_here(config), " ".join(apart))

    def _refuse_invalid(self, config: DictConfig, here: bool, job: str = "") -> None:
        module, _, function = self.check.rpartition(".")
        with self._refused(job):
            getattr(import_late(module), function)(config, here)

    @contextmanager
    def _refused(self, job: str = "") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._refusal(error, job) from error

    def _refusal(self, error: Exception, job: str = "") -> SystemExit:
        """Ends the process, because Hydra turns other exceptions in a callback into warnings."""
        plain = " ".join(str(error).split())
        text = error_message(error) if expected(error) else f"unexpected {type(error).__name__}: {plain}"
        return SystemExit(fail(self.command, f"{text} (in the run {job})" if job else text, 1))


def _search_as(config: DictConfig) -> None:
    """Let the check look for tasks where Hydra looks for them."""
    HydraConfig.instance().cfg = config  # type: ignore[assignment]  # set_config would make the node read-only


def _stage(description: str) -> AbstractContextManager[Any]:
    """Only on a terminal: elsewhere, the error must be the only line."""
    return bar(description, None) if console.is_terminal else silent()
