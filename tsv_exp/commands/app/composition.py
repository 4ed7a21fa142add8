"""Composition of the configuration by Hydra, extended by numbers as options of a group and by method=METHOD+ROUTER.

Hydra has no extension point between an override and the choice of an option. So its ConfigLoaderImpl is replaced by a
subclass, only here; single runs, jobs of a sweep, experiments and tab completion all use it.
"""

import io
import pickle
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import hydra._internal.hydra as hydra_internal
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from tsv_exp.commands.app.guard import task_key, text_paths
from tsv_exp.config import with_router

EXTENDED = ("hydra/launcher",)  # groups whose presets have the same names as plugins' options
NUMBER = "_number"  # the file of a group that defines the meaning of a number as an option


class Repository(ConfigRepository):
    """Files whose names begin with _ are included by others and cannot be chosen.

    In a group with a file `_number`, the option 0.3 is that file with `value: 0.3`.
    """

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The content of an option, or None if there is no such option."""
        found = super().load_config(config_path)
        group, _, option = config_path.rpartition("/")
        value = _number(option)
        if found is not None:
            return self._extended(config_path, found) if group in EXTENDED else found
        if value is None:
            return None
        found = super().load_config(f"{group}/{NUMBER}")
        if found is not None:
            assert isinstance(found.config, DictConfig)
            with open_dict(found.config):
                found.config["value"] = value
        return found

    def _extended(self, config_path: str, found: ConfigResult) -> ConfigResult:
        """A preset merged over the plugin's option of the same name, which provides types and the other keys."""
        plugins = self.get_schema_source()
        if not found.is_schema_source and plugins.is_config(config_path):
            found.config = OmegaConf.merge(plugins.load_config(config_path).config, found.config)
            found.is_schema_source = True  # otherwise Hydra matches the two by name, which is deprecated
        return found

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        """The names that can be chosen."""
        return [name for name in super().get_group_options(group_name, results_filter) if not name.startswith("_")]

    def _create_defaults_list(self, config_path: str, defaults: ListConfig) -> list[Any]:
        for entry in defaults:
            if isinstance(entry, DictConfig):
                options = dict(entry.items_ex(resolve=False))
                entry.update({key: str(option) for key, option in options.items() if isinstance(option, Real)})
        return super()._create_defaults_list(config_path, defaults)


class Template:
    """A configuration that is copied many times: as a pickle, which is several times as fast as copying.

    Classes are not pickled by name: Hydra executes the modules of plugins twice, so that names give other classes.
    """

    def __init__(self, config: DictConfig) -> None:
        self._classes: list[type] = []
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer)
        pickler.persistent_id = self._number  # type: ignore[method-assign]
        pickler.dump(config)
        self._pickle = buffer.getvalue()

    def copy(self) -> DictConfig:
        """A copy."""
        unpickler = pickle.Unpickler(io.BytesIO(self._pickle))
        unpickler.persistent_load = self._classes.__getitem__  # type: ignore[method-assign]
        found: DictConfig = unpickler.load()
        return found

    def _number(self, value: object) -> int | None:
        if not isinstance(value, type):
            return None
        self._classes.append(value)
        return len(self._classes) - 1


class Job(NamedTuple):
    """The overrides of one job: those that choose options of groups, values, all as typed, and their folder's name."""

    options: tuple[str, ...]
    values: Sequence[Override]
    typed: Sequence[str | None]
    dirname: str


class ConfigLoader(ConfigLoaderImpl):
    """Composes with this repository; jobs of a sweep that choose the same options are composed once.

    Hydra composes the options of groups, which is slow; values are set afterwards, as Hydra sets them. Overrides are
    parsed once, because several parts of Hydra request a job.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = Repository(config_search_path)
        self._composed: dict[tuple[str, ...], Template] = {}
        self._without_hydra: dict[tuple[str, ...], Template] = {}
        self._jobs: dict[tuple[str, ...], Job] = {}
        self._parsed: dict[tuple[tuple[str, ...], str], tuple[Override, bool]] = {}
        self._searched: dict[tuple[str, ...], CachingConfigRepository] = {}

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *arguments: Any, **options: Any
    ) -> DictConfig:
        """The configuration with these overrides."""
        return super().load_configuration(config_name, _typed(overrides), *arguments, **options)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of one job."""
        job = self._job(master_config, sweep_overrides)
        config = self._composed[job.options].copy()
        self._apply_overrides_to_config(list(job.values), config)
        config.hydra.overrides.task = job.typed
        config.hydra.job.override_dirname = job.dirname
        OmegaConf.copy_cache(master_config, config)  # folder names contain the time of the sweep
        return config

    def load_values(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of one job without Hydra's own node, whose copy takes longer than that of all others."""
        job = self._job(master_config, sweep_overrides)
        if job.options not in self._without_hydra:
            config = self._composed[job.options].copy()
            with open_dict(config):
                del config["hydra"]
            self._without_hydra[job.options] = Template(config)
        config = self._without_hydra[job.options].copy()
        self._apply_overrides_to_config(list(job.values), config)
        return config

    def _job(self, master_config: DictConfig, sweep_overrides: list[str]) -> Job:
        """The job, whose options are composed."""
        key = tuple(sweep_overrides)
        if key not in self._jobs:
            self._jobs[key] = self._parse_job(master_config, sweep_overrides)
        job = self._jobs[key]
        if job.options not in self._composed:
            self._composed[job.options] = Template(super().load_sweep_config(master_config, list(job.options)))
        return job

    def _parse_job(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> Job:
        settings = master_config.hydra
        given = tuple(settings.overrides.hydra)
        if given not in self._searched:  # its folders are those that Hydra's own overrides name
            found = self._parse_overrides_and_create_caching_repo(settings.job.config_name, _typed(given))
            self._searched[given] = found[1]
        parsed = [self._parse(one, given) for one in _typed(sweep_overrides)]
        own = [override for override, _ in parsed if not override.is_hydra_override()]
        return Job(
            tuple(override.input_line or "" for override, is_value in parsed if not is_value),
            [override for override, is_value in parsed if is_value],
            [override.input_line for override in own],
            get_overrides_dirname(own, **settings.job.config.override_dirname),
        )

    def _parse(self, override: str, given: tuple[str, ...]) -> tuple[Override, bool]:
        """One override, and whether it sets a value; the jobs of a sweep repeat most of them."""
        if (given, override) not in self._parsed:
            repository = self._searched[given]
            (found,) = _options_as_text(OverridesParser.create().parse_overrides([override]), repository)
            self._parsed[given, override] = found, _is_value(found, repository)
        return self._parsed[given, override]

    def __getstate__(self) -> Mapping[str, Any]:
        """The state for other processes, without the caches."""
        return {**self.__dict__, "_composed": {}, "_without_hydra": {}, "_jobs": {}, "_parsed": {}, "_searched": {}}

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed, repository = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
        return _options_as_text(parsed, repository), repository


def _options_as_text(parsed: list[Override], repository: CachingConfigRepository) -> list[Override]:
    """Numbers that choose an option as its name; also true and false: Hydra then lists the options."""
    for override in parsed:
        value = override.value()
        if isinstance(value, Real) and repository.group_exists(override.key_or_group):
            override._value = str(value)
    return parsed


def _typed(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra takes them."""
    return [text_paths(task_key(one)) for override in overrides for one in with_router(override)]


def _is_value(override: Override, repository: CachingConfigRepository) -> bool:
    """Whether an override sets a value of the composed configuration, and chooses no option of a group."""
    group = repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
    return not group and not override.is_hydra_override() and override.package is None


def _number(text: str) -> float | int | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return None


hydra_internal.ConfigLoaderImpl = ConfigLoader  # type: ignore[misc]
