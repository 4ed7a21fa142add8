"""Imports of large libraries: without garbage collection, with one line where they fail, and with no signal lost."""

import atexit
import gc
import sys
from importlib import import_module
from typing import Any

from tsv_exp.errors import UserError
from tsv_exp.runtime.interrupts import postponed


def import_frozen(module: str) -> Any:
    """Import a module without garbage collection, which takes a third of the time of an import and frees nothing.

    Raises:
        UserError: the module or a library that it needs cannot be loaded.
    """
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        return import_module(module)
    except (ImportError, MemoryError, OSError, SystemError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        remedy = "allow more memory and open files (ulimit -v, ulimit -n), or install the package again"
        raise UserError(f"its libraries cannot be loaded ({reason}); {remedy}") from error
    finally:
        gc.freeze()  # also excluded from collection at exit, see `_collect_at_exit`
        gc.enable()


def import_late(module: str) -> Any:
    """As `import_frozen`, in the middle of a command: an interruption is raised after the import.

    Python can lose a KeyboardInterrupt that is raised while a library written in C is being imported.
    """
    with postponed():
        return import_frozen(module)


@atexit.register
def _collect_at_exit() -> None:
    """Triton, which torch's optimizers load, prints a page at exit about objects that are not collected."""
    if "triton" in sys.modules:
        gc.unfreeze()
