"""The command line of tsv-merge: name=value words, a configuration file, and a folder of user methods."""

import shlex
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tsv_exp.errors import UserError
from tsv_exp.merge_files.options.config_file import read_config
from tsv_exp.merge_files.options.options import Options, parse
from tsv_exp.methods.specification.files import method_files

_SUFFIXES = (".yaml", ".yml")


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of exiting."""
        raise UserError(f"{message}; tsv-merge --help lists the options")


def _parser() -> ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("words", nargs="*")
    return parser


def options_of(arguments: Sequence[str]) -> Options:
    """The options of a command line; words override the configuration file.

    Args:
        arguments: name=value words, at most one FILE.yaml, --config-dir FOLDER and --config-name NAME.

    Raises:
        UserError: the command line is invalid; the message describes the correct form.
    """
    typed = _parser().parse_intermixed_args(arguments)
    folder = typed.config_dir
    if folder is not None and not folder.is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder")
    files = [Path(word) for word in typed.words if "=" not in word and word.endswith(_SUFFIXES)]
    if typed.config_name:
        files.append(_named(typed.config_name, folder or Path()))
    if len(files) > 1:
        raise UserError(f"{' and '.join(map(str, files))}: give one configuration file")
    words = [word for word in typed.words if Path(word) not in files]
    options = parse(words, read_config(files[0]) if files else {})
    options.search = (folder,) if folder is not None else ()
    options.command = shlex.join(["tsv-merge", *arguments])
    return options


def _named(name: str, folder: Path) -> Path:
    found = [folder / f"{name}{suffix}" for suffix in ("", *_SUFFIXES) if (folder / f"{name}{suffix}").is_file()]
    if not found:
        raise UserError(f"--config-name {name}: {folder / name}.yaml is not there")
    return found[0]


def method_lines(arguments: Sequence[str]) -> list[str]:
    """One line per method: its name and the first comment of its YAML."""
    folder = _parser().parse_known_intermixed_args(arguments)[0].config_dir
    files = method_files((folder,) if folder is not None else ())
    return [f"  {name:<28} {_first_comment(files[name])}" for name in sorted(files)]


def _first_comment(file: Path) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
