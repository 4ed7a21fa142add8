"""Entry points of the console commands: each imports its module under a guard, so that Ctrl-C is always one line."""

import sys
from collections.abc import Callable
from importlib.metadata import version

from tsv_exp.runtime.console import INTERRUPTED
from tsv_exp.runtime.imports import import_frozen


def _command(name: str, module: str) -> Callable[[], int]:
    def run() -> int:
        if "--version" in sys.argv[1:]:  # Hydra would print its own
            sys.stdout.write(f"{name} {version('tsv_exp')}\n")
            return 0
        try:
            return int(import_frozen(module).main() or 0)
        except KeyboardInterrupt:  # before the command could say what is kept
            sys.stderr.write(f"{name}: interrupted\n")
            return INTERRUPTED

    return run


exp = _command("tsv-exp", "tsv_exp.commands.exp")
report = _command("tsv-report", "tsv_exp.commands.report")
merge = _command("tsv-merge", "tsv_exp.commands.merge")
analyze = _command("tsv-analyze", "tsv_exp.commands.analyze")
finetune = _command("tsv-finetune", "tsv_exp.commands.finetune")
