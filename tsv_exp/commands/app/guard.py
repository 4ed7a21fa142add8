"""Error handling of every command: an error or an interruption ends it with one line and an exit code."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tsv_exp.merge_files.options.paths import paths
from tsv_exp.runtime.console import fail
from tsv_exp.runtime.interrupts import describe, exit_code, unmasked
from tsv_exp.runtime.messages.failures import error_message, expected
from tsv_exp.runtime.parallel.torchrun import repeat_last

_PATHS = {
    *("paths.outputs", "paths.cache", "hydra.run.dir", "hydra.sweep.dir", "output", "base", "models"),
    *("model.base", "model.pretrained", "model.checkpoints"),
}

_TASK_KEY = re.compile(r"tasks(\.[\w-]+){2,}=")
_TASK_PATH = re.compile(r"task(\.[\w-]+)?\.(data(\.path)?|checkpoint)")


def run_command(command: str, app: Callable[[], object], hint: Callable[[], str] = str) -> int:
    """Run a command; returns its exit code."""
    try:
        with error_guard(command, hint):
            app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


@contextmanager
def error_guard(command: str, hint: Callable[[], str] = str) -> Iterator[None]:
    """End the process with one line on an error; `hint` describes how to resume an interrupted command.

    Used around a command's Hydra main and also inside it, since Hydra prints its own line for errors that leave it.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach this function, which prints one line
    try:
        with unmasked():
            yield
    except KeyboardInterrupt as interrupt:
        rest = hint()
        line = f"{describe(interrupt)}; {rest}" if rest else describe(interrupt)
        shown = repeat_last(
            f"{command}: {line}"
        )  # not after the error of another process, for which torchrun stops all
        raise SystemExit(fail(command, line, exit_code(interrupt)) if shown else exit_code(interrupt)) from None
    except Exception as error:
        if not expected(error):
            raise
        message = error_message(error)
        shown = repeat_last(f"{command}: {message}")
        raise SystemExit(fail(command, message, 1) if shown else 1) from error


def text_paths(argument: str) -> str:
    """Quote a path for Hydra: `paths.outputs=2024_01` is not a number, and `run #2` is not a comment."""
    key, equals, value = argument.partition("=")
    plain = key.lstrip("+")
    if not equals or not (plain in _PATHS or _TASK_PATH.fullmatch(plain)):
        return argument
    if plain == "models" and value[:1] in "[{":
        given = paths(value)
        if isinstance(given, dict):  # as one text: Hydra's grammar has no quotes around the keys of a mapping
            return f"{key}={_quoted(value)}"
        return f"{key}=[{','.join(map(_quoted, given))}]"
    if (
        value in ("", "null") or value[0] in "'\"[{" or "${" in value or "," in value
    ):  # a list, a sweep, an interpolation
        return argument
    return f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    escaped = value.replace("'", "\\'")
    return f"'{escaped}'"


def task_key(argument: str) -> str:
    """Rewrite `tasks.<name>.<key>=value` to the key `task.<name>.<key>`: `tasks` itself is a number or a list."""
    return f"++task{argument[len('tasks') :]}" if _TASK_KEY.match(argument) else argument
