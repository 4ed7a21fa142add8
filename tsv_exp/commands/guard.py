"""What surrounds every command: an error or an interruption ends it with one line and an exit code."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tsv_exp.errors import UserError
from tsv_exp.runtime.console import INTERRUPTED, fail
from tsv_exp.runtime.failures import MISSING, error_message


def run_command(command: str, app: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Run a command; returns its exit code."""
    try:
        with error_guard(command, interrupted):
            app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


@contextmanager
def error_guard(command: str, interrupted: str = "interrupted") -> Iterator[None]:
    """An error inside ends the process with one line.

    Around a command's Hydra main and inside it too: Hydra prints a line of its own for errors that leave that.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach this function, which makes one line of them
    try:
        yield
    except (HydraException, OmegaConfBaseException, UserError, OSError) as error:
        raise SystemExit(fail(command, error_message(error), 1)) from error
    except KeyboardInterrupt:
        raise SystemExit(fail(command, interrupted, INTERRUPTED)) from None
    except RuntimeError as error:
        if not MISSING.match(str(error)):
            raise
        raise SystemExit(fail(command, error_message(error), 1)) from error


def local_data(argument: str) -> str:
    """`tasks.<name>.data=DIR` as the model's option, since `tasks` itself is a number or a list."""
    key, equals, value = argument.partition("=")
    parts = key.split(".")
    if equals and len(parts) == 3 and parts[0] == "tasks" and parts[2] == "data":
        return f"++model.local_data.{parts[1]}={value}"
    return argument
