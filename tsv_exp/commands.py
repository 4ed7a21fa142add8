"""The console commands: each imports what it needs under its own guard, so that Ctrl-C is one line from the start."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

INTERRUPTED = 130


@contextmanager
def importing() -> Iterator[None]:
    """Imports without looking for garbage: what they make stays, and looking takes a third of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _command(name: str, module: str) -> Callable[[], int]:
    def run() -> int:
        try:
            with importing():
                main = import_module(module).main
            return int(main() or 0)
        except KeyboardInterrupt:  # before the command could say what is kept
            sys.stderr.write(f"{name}: interrupted\n")
            return INTERRUPTED

    return run


exp = _command("tsv-exp", "tsv_exp.cli")
report = _command("tsv-report", "tsv_exp.report")
merge = _command("tsv-merge", "tsv_exp.merge_files")
analyze = _command("tsv-analyze", "tsv_exp.analyze")
finetune = _command("tsv-finetune", "tsv_exp.finetune_cli")
