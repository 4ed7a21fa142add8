"""A console command whose configuration Hydra composes."""

import functools
import traceback
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from tsv_exp.commands.app import composition as composition  # numbers as options of a group
from tsv_exp.config import conf_dir
from tsv_exp.storage.files import use_cache
from tsv_exp.sweeps.expansion import job_overrides
from tsv_exp.tasks import definitions as definitions  # resolvers that the text of --help uses

App = Callable[[DictConfig], Any]


def hydra_app(config_name: str) -> Callable[[App], Callable[..., Any]]:
    """Decorator: calls the function with conf/<config_name>.yaml and the overrides of the command line."""

    def decorated(app: App) -> Callable[..., Any]:
        @functools.wraps(app)
        def work(config: DictConfig) -> Any:
            use_cache(config.paths.cache)
            return app(config)

        main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(work)

        def run(config: DictConfig | None = None) -> Any:
            if config is not None:  # launchers look the function up by name
                return work(config)
            typed = get_args_parser().parse_args()
            if typed.multirun and typed.cfg is not None:
                return _show_jobs(typed, config_name)
            try:
                return main()
            except (TypeError, ValueError) as error:
                if not _by_hydra(error):
                    raise
                raise HydraException(str(error)) from error

        return run

    return decorated


def _by_hydra(error: BaseException) -> bool:
    """Whether Hydra raised an error: some errors of the command line have no Hydra class."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__")).startswith("hydra.")


def _show_jobs(typed: Namespace, config_name: str) -> None:
    """--multirun with --cfg: print the configuration of every job as YAML documents; Hydra does not support this."""
    path = create_config_search_path(str(conf_dir()))
    if typed.config_dir is not None:
        path.prepend("command-line", f"file://{typed.config_dir}", SearchPathQuery(provider="schema"))
    hydra_main = Hydra.create_main_hydra2(task_name=config_name, config_search_path=path)
    try:
        config_name = typed.config_name or config_name
        sweep = hydra_main.compose_config(config_name, [*typed.overrides], RunMode.MULTIRUN)
        for overrides in job_overrides(sweep, hydra_main.config_loader):
            Console(soft_wrap=True, markup=False, highlight=False).print(f"--- # {' '.join(overrides)}")
            given = [*sweep.hydra.overrides.hydra, *overrides]
            hydra_main.show_cfg(config_name, given, typed.cfg, typed.package, typed.resolve)
    finally:
        GlobalHydra.instance().clear()
