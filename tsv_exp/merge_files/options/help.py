"""Texts about tsv-merge's options: methods in --help, and words for tab completion; imports no torch."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from tsv_exp.arguments import STRUCTURE
from tsv_exp.config import sources
from tsv_exp.merge_files.options.values import ALL, CHOICES
from tsv_exp.runtime.messages.parser import Parser
from tsv_exp.runtime.options import composed, described, option_files


def parser() -> ArgumentParser:
    """The parser of the arguments that are not name=value."""
    found = Parser(prog="tsv-merge", add_help=False, allow_abbrev=False)
    found.add_argument("--config-dir", "-cd", type=Path)
    found.add_argument("--config-name", "-cn")
    found.add_argument("words", nargs="*")
    return found


def method_lines(arguments: Sequence[str]) -> list[str]:
    """One line per method: its name and the first sentence of its YAML's comment."""
    return described("method", sources(_search(arguments))).splitlines()


def words(typed: Sequence[str]) -> list[str]:
    """Completions of a command line: options, and the values of options with a choice.

    The parameters are those of the method that has been typed, or of the default.
    """
    places = sources(_search(typed))
    methods = list(option_files("method", places))
    chosen = next((word[7:] for word in reversed(typed) if word.startswith("method=")), "tsv_m")
    keys = composed("method", [chosen], places)[0] if chosen in methods else {}
    choices = {**CHOICES, "method": methods}
    options = [*(name for name in ALL if name not in choices), *(key for key in keys if key not in STRUCTURE)]
    values = [f"{name}={value}" for name, several in choices.items() for value in several]
    return [*(f"{name}=" for name in options), *values, "--config-dir", "--config-name", "--help", "--version"]


def _search(arguments: Sequence[str]) -> tuple[Path, ...]:
    folder = parser().parse_known_intermixed_args(arguments)[0].config_dir
    return () if folder is None else (folder,)
