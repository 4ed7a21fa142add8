"""The console commands: each imports what it needs under its own guard, so that Ctrl-C is one line from the start."""

import gc
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

INTERRUPTED = 130


def imported(module: str) -> Any:
    """A module, imported without looking for garbage: what an import makes stays, and looking takes a third of it."""
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()  # nor is garbage looked for in it at the end
        gc.enable()


def _command(name: str, module: str) -> Callable[[], int]:
    def run() -> int:
        try:
            return int(imported(module).main() or 0)
        except KeyboardInterrupt:  # before the command could say what is kept
            sys.stderr.write(f"{name}: interrupted\n")
            return INTERRUPTED

    return run


exp = _command("tsv-exp", "tsv_exp.cli")
report = _command("tsv-report", "tsv_exp.report")
merge = _command("tsv-merge", "tsv_exp.merge_files")
analyze = _command("tsv-analyze", "tsv_exp.analyze")
finetune = _command("tsv-finetune", "tsv_exp.finetune_cli")
