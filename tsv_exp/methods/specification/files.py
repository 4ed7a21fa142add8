"""The YAML files of the methods: where they are, and their content."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsv_exp.config import conf_dir
from tsv_exp.runtime.options import composed


def method_files(search: Sequence[Path] = ()) -> dict[str, Path]:
    """The YAML of every method: those of the folders `search`, the first before the others, and those of conf."""
    folders = [*search, conf_dir()]
    return {path.stem: path for folder in reversed(folders) for path in sorted((folder / "method").glob("[!_]*.yaml"))}


def content(name: str, search: Sequence[Path] = ()) -> dict[str, Any]:
    """The keys of a method's YAML, composed with those it names in its defaults list."""
    sources = [f"file://{folder.resolve()}" for folder in (*search, conf_dir())]
    return composed("method", [name], sources)[0]
