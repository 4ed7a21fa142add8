"""One-line error messages."""

import re
from pathlib import Path
from typing import Any

from tsv_exp.errors import UserError, did_you_mean
from tsv_exp.runtime.messages.os_errors import cause, explain

EXTRAS = ("joblib", "submitit", "ray", "optuna")  # of pyproject.toml


# Hydra's messages for a missing plugin, with its class or its group's option
MISSING = re.compile(r"(?:Unknown plugin class : 'hydra_plugins\.hydra_|Could not find 'hydra/sweeper/)([a-z]+)")
NO_OPTION = re.compile(r"In '([^']*)': Could not find '([^']*)'\s+Available options in '([^']*)':\s+(.*)", re.DOTALL)
NO_GROUP = re.compile(r"Could not override '([^']*)'\. No match in the defaults list")
UNKNOWN = re.compile(r"Could not override '([^']*)'")  # Hydra's message
# Hydra's message for a key that is also the name of a folder on the search path: a natural one for a user's tasks
HIDDEN = "Could not override 'tasks'. No match in the defaults list"
_CONFIGURATION = {
    "HydraException",
    "OmegaConfBaseException",
    "YAMLError",
}  # compared by name: not every command imports Hydra


def expected(error: Exception) -> bool:
    """Whether an error is caused by the user's input or the machine, not by a bug in this program."""
    if isinstance(error, UserError) or _of_configuration(error) or MISSING.match(str(error)):
        return True
    return isinstance(error, OSError) or (isinstance(error, MemoryError | RuntimeError) and cause(error) is not None)


def error_message(error: BaseException) -> str:
    """The message for the user: that of the innermost UserError, else the error's own without Hydra's search path."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, UserError):
            return " ".join(str(inner).split())
        inner = inner.__cause__
    text = str(error).split("\nConfig search path")[0].split("\n    full_key")[0]
    if (missing := MISSING.search(text)) and missing[1] in EXTRAS:
        return f"the Hydra plugin for {missing[1]} is not installed; pip install 'tsv_exp[{missing[1]}]'"
    if absent := NO_OPTION.fullmatch(text):
        return _no_such_option(*absent.groups())
    if text.startswith(HIDDEN):
        return (
            "tasks: a folder of this name in --config-dir or hydra.searchpath hides the key tasks; rename it: "
            "a task is task/NAME.yaml, a set of tasks is task_set/NAME.yaml"
        )
    if group := NO_GROUP.match(text):
        hint = "choose tasks as in tasks='[digits,clock]'" if group[1] == "task" else "--help lists its options"
        return f"{group[1]}: this command has no such option; {hint}"
    if not _of_configuration(error) and (system := cause(error)):
        where = f"{system.filename}: " if system.filename else ""
        return f"{where}{explain(system)}"
    if type(error.__cause__).__name__ == "ValidationError":  # OmegaConf's cause: the expected type or value
        text = f"{text}: {str(error.__cause__).partition(chr(10))[0]}"
    if (unknown := UNKNOWN.match(text)) and type(error.__cause__).__name__ in (
        "ConfigAttributeError",
        "ConfigKeyError",
    ):
        text = _no_such_key(unknown[1], error.__cause__)
    return " ".join(text.split()) or type(error).__name__


def _no_such_option(origin: str, path: str, group: str, options: str) -> str:
    """Hydra's error about an unknown option of a group; `origin` is the file whose defaults list has it."""
    name, known = path.removeprefix(f"{group}/"), [option for option in options.split() if option[0] != "_"]
    where = f"{origin}.yaml: " if "/" in origin and not origin.startswith("hydra/") else ""
    hint = did_you_mean(name, known)
    return f"{where}{group}={name}: there is no such option; {hint}choose from: {', '.join(known)}"


def _no_such_key(typed: str, cause: Any) -> str:
    """OmegaConf's error about an unknown key, with the keys that are there, or with the place of the typed one."""
    above = cause.full_key.rpartition(".")[0]
    known = [str(key) for key in cause.parent_node if key != "hydra" and not str(key).startswith("_")]
    if not above and (longer := _ending_with(typed, cause.parent_node)):
        return f"{typed}: there is no such key; did you mean {longer}?"
    hint = did_you_mean(str(cause.key), known)
    keys = ", ".join(known) or "none"
    return f"{cause.full_key}: there is no such key; {hint}{above or 'the configuration'} has: {keys}"


def _ending_with(typed: str, root: Any) -> str | None:
    """The first key below `root` that ends with the typed one; None without one."""
    from omegaconf import OmegaConf

    nodes: list[tuple[str, Any]] = [("", OmegaConf.to_container(root))]
    for path, node in nodes:  # which grows
        if path.endswith(f".{typed}"):
            return path.removeprefix(".")
        if isinstance(node, dict):
            nodes += [(f"{path}.{key}", value) for key, value in node.items() if (path, key) != ("", "hydra")]
    return None


def unexpected_message(error: Exception, folder: Path) -> str:
    """The message for an unexpected error; `folder` is the run's folder."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError":  # compared by name: torch may not be imported
        return f"{text.partition('. ')[0]}; choose a device= with more memory, or device=cpu"
    if system := cause(error):
        return explain(system)
    return f"unexpected {type(error).__name__}: {text} (see {folder}/tsv-exp.log)"


def _of_configuration(error: BaseException) -> bool:
    return any(kind.__name__ in _CONFIGURATION for kind in type(error).__mro__)
