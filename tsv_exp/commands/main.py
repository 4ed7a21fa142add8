"""Entry points of the console commands: each imports its module under a guard, so that an interruption is one line.

Has no slow imports: until this module is loaded, Python itself handles Ctrl-C.
"""

from tsv_exp.commands.app.early import end_guard  # isort: skip - first: from here on an interruption is one line

import sys
from collections.abc import Callable
from io import TextIOWrapper

from tsv_exp.errors import UserError
from tsv_exp.runtime.imports import import_frozen
from tsv_exp.runtime.interrupts import catch_signals, end, ignore_at_exit


def _command(name: str, module: str) -> Callable[[], int]:
    def run() -> int:
        try:
            for stream in (sys.stdout, sys.stderr):  # file names may have another encoding
                if isinstance(stream, TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            if "--version" in sys.argv[1:]:  # Hydra would print its own version
                from importlib.metadata import version

                sys.stdout.write(f"{name} {version('tsv_exp')}\n")
                return 0
            return int(_loaded(name, module) or 0)
        except KeyboardInterrupt as interrupt:  # during start-up
            return end(name, interrupt)

    return run


def _loaded(name: str, module: str) -> int | None:
    """Import a module and return the exit code of its main."""
    try:
        main: Callable[[], int | None] = import_frozen(module).main
    except UserError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    end_guard()  # not before: a KeyboardInterrupt in the middle of an import can be lost
    catch_signals()
    try:
        return main()
    finally:
        ignore_at_exit()  # registered last, it runs first


exp = _command("tsv-exp", "tsv_exp.commands.exp")
report = _command("tsv-report", "tsv_exp.commands.report")
merge = _command("tsv-merge", "tsv_exp.commands.merge")
analyze = _command("tsv-analyze", "tsv_exp.commands.analyze")
finetune = _command("tsv-finetune", "tsv_exp.commands.finetune")
