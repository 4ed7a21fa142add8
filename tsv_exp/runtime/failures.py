"""What went wrong, in one line for a person."""

import re
from pathlib import Path

from hydra.errors import HydraException

from tsv_exp.errors import UserError

EXTRAS = ("joblib", "submitit", "ray", "optuna")  # of pyproject.toml


# as Hydra says that a plugin is missing: by its class, or by its group's option
MISSING = re.compile(r"(?:Unknown plugin class : 'hydra_plugins\.hydra_|Could not find 'hydra/sweeper/)([a-z]+)")


def error_message(error: BaseException) -> str:
    """What went wrong, for a person: the innermost of our own errors, else the message without Hydra's search path."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return " ".join(str(cause).split())
        cause = cause.__cause__
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        return f"{where}{reason}; free space, or choose other folders with paths.outputs= and paths.cache="
    text = str(error).split("\nConfig search path")[0].split("\n    full_key")[0]
    if (missing := MISSING.search(text)) and missing[1] in EXTRAS:
        return f"the Hydra plugin for {missing[1]} is not installed; pip install 'tsv_exp[{missing[1]}]'"
    return " ".join(text.split()) or type(error).__name__


def unexpected_message(error: Exception, folder: Path) -> str:
    """What is said of an error that is not of our own making; `folder` is the run's."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError":  # by name: torch may not be imported yet
        return f"{text.partition('. ')[0]}; choose a device= with more memory, or device=cpu"
    return f"unexpected {type(error).__name__}: {text} (see {folder}/tsv-exp.log)"
