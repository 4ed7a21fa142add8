"""Options of a group of the configuration, as Hydra composes them: with their defaults lists and interpolations."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import OmegaConf


def composed(group: str, names: Sequence[str], sources: Sequence[str]) -> list[dict[str, Any]]:
    """The content of options of a group, resolved. Hydra's global state is left alone.

    Args:
        group: the group, such as `method`.
        names: the options.
        sources: configuration folders, as file://FOLDER or pkg://PACKAGE; the first that has an option counts.

    Raises:
        HydraException, OmegaConfBaseException: there is no such option, or its file cannot be composed.
    """
    Plugins.instance()  # registers the kinds of addresses
    path = ConfigSearchPathImpl()
    for source in ("pkg://hydra.conf", *sources):
        path.append("tsv_exp", source)
    path.append("schema", "structured://")
    chosen = [f"+{group}@t{number}={name}" for number, name in enumerate(names)]
    loaded = ConfigLoaderImpl(path).load_configuration(None, chosen, RunMode.RUN, from_shell=False)
    found: Any = [OmegaConf.to_container(loaded[f"t{number}"], resolve=True) or {} for number in range(len(names))]
    return list(found)
