"""The command line of tsv-merge: name=value words, a configuration file, and a folder of user methods."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tsv_exp.errors import UserError
from tsv_exp.merge_files.options.config_file import read_config
from tsv_exp.merge_files.options.help import parser
from tsv_exp.merge_files.options.options import Options, parse

_SUFFIXES = (".yaml", ".yml")


def options_of(arguments: Sequence[str]) -> Options:
    """The options of a command line; words override the configuration file.

    Args:
        arguments: name=value words, at most one FILE.yaml, --config-dir FOLDER and --config-name NAME.

    Raises:
        UserError: the command line is invalid; the message describes the correct form.
    """
    typed = parser().parse_intermixed_args(arguments)
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
