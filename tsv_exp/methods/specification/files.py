"""The YAML files of the methods: where they are, and their content."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsv_exp.config import sources
from tsv_exp.runtime.options import composed, option_files


def method_files(search: Sequence[Path] = ()) -> dict[str, Path]:
    """The YAML of every method, from the folders `search` and from conf; the first folder that has a method counts."""
    return option_files("method", sources(search))


def content(name: str, search: Sequence[Path] = ()) -> dict[str, Any]:
    """The keys of a method's YAML, composed with those of its defaults list."""
    return composed("method", [name], sources(search))[0]
