"""Where the YAML files of the methods are."""

from collections.abc import Sequence
from pathlib import Path

from tsv_exp.config import conf_dir


def method_files(search: Sequence[Path] = ()) -> dict[str, Path]:
    """The YAML of every method: those of the folders `search`, the first before the others, and those of conf."""
    folders = [*search, conf_dir()]
    return {path.stem: path for folder in reversed(folders) for path in sorted((folder / "method").glob("[!_]*.yaml"))}
