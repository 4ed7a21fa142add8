"""Options of a group of the configuration: their files, their descriptions in --help, and their content."""

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf


def option_files(group: str, sources: Sequence[str]) -> dict[str, Path]:
    """The file of each option of a group, in alphabetical order; files whose names begin with _ are no options.

    Args:
        group: the group, such as `method`.
        sources: configuration folders, as file://FOLDER or pkg://PACKAGE; the first that has an option counts.
    """
    found = {
        path.relative_to(folder).as_posix().removesuffix(".yaml"): path
        for folder in (folder_of(source) / group for source in reversed(sources))
        for path in folder.rglob("*.yaml")
        if path.relative_to(folder).as_posix()[0] != "_"
    }
    return {name: found[name] for name in sorted(found, key=lambda name: (name.casefold(), name))}


def described(group: str, sources: Sequence[str]) -> str:
    """The options of a group, one per line, with the first sentence of their YAML's comment; see `option_files`."""
    found = option_files(group, sources)
    width = max(map(len, found), default=0)
    return "\n".join(f"  {name:<{width}}  {_comment(path)}".rstrip() for name, path in found.items())


def folder_of(source: str) -> Path:
    """The folder of an address, file://FOLDER or pkg://PACKAGE."""
    scheme, _, place = source.partition("://")
    return Path(place) if scheme == "file" else Path(str(files(place)))


def explained(files: Sequence[Path]) -> str:
    """The commented keys of configuration files, one per line, with their defaults; a later file's key counts."""
    found = {key: (f"{key}{value}", comment) for file in files for key, value, comment in _commented(file)}
    width = max((len(shown) for shown, _ in found.values()), default=0)
    return "\n".join(f"  {shown:<{width}}  {comment}" for shown, comment in found.values())


def _commented(file: Path) -> Iterator[tuple[str, str, str]]:
    """Key, =value and comment of each commented line; the section `hydra` is left out."""
    parents: list[str] = []
    for line in file.read_text(encoding="utf-8").partition("\nhydra:")[0].splitlines():
        if match := re.fullmatch(r"((?:  )*)(\w+):(?: ([^#]+?))?(?: # (.*))?", line):
            indent, key, value, comment = match.groups()
            parents[len(indent) // 2 :] = [key]
            if comment:
                yield ".".join(parents), f"={value}" if value else "", comment


def _comment(file: Path) -> str:
    """The first sentence of the comment at the head of a file."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.lstrip("# ") for line in lines if "@package" not in line)
    return re.split(r"(?<=\.) (?=\S)", text)[0]


def composed(group: str, names: Sequence[str], sources: Sequence[str]) -> list[dict[str, Any]]:
    """The content of options of a group, composed with their defaults lists; Hydra's global state is left alone.

    Args:
        group: the group, such as `method`.
        names: the options.
        sources: configuration folders, as file://FOLDER or pkg://PACKAGE; the first that has an option counts.

    Raises:
        HydraException, OmegaConfBaseException: there is no such option, or its file cannot be composed.
    """
    Plugins.instance()  # registers the kinds of addresses
    path = ConfigSearchPathImpl()
    for source in sources:
        path.append("tsv_exp", source)
    path.append("schema", "structured://")
    chosen = [f"+{group}@t{number}={name}" for number, name in enumerate(names)]
    loader = ConfigLoaderImpl(path)
    overrides, repository = loader._parse_overrides_and_create_caching_repo(None, chosen)
    defaults = create_defaults_list(repository, None, overrides, prepend_hydra=False, skip_missing=False).defaults
    loaded = loader._compose_config_from_defaults_list(defaults, repository)
    found: Any = [OmegaConf.to_container(loaded[f"t{number}"], resolve=True) or {} for number in range(len(names))]
    return list(found)
