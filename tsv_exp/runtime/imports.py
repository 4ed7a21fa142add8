"""Imports without garbage collection."""

import gc
import sys
from importlib import import_module
from typing import Any


def import_frozen(module: str) -> Any:
    """A module, imported without looking for garbage: what an import makes stays, and looking takes a third of it."""
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()  # nor is garbage looked for in it at the end
        gc.enable()
