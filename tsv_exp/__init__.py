"""tsv_exp: merge fine-tuned models with Task Singular Vectors (arXiv 2412.00081).

Importing the package is instant: its names load what they need when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsv_exp.engine import Merged, apply, merge
    from tsv_exp.errors import UserError
    from tsv_exp.method import Method
    from tsv_exp.sti import interference

__all__ = ["Merged", "Method", "UserError", "apply", "interference", "merge"]

_HOMES = {
    "Merged": "engine",
    "Method": "method",
    "UserError": "errors",
    "apply": "engine",
    "interference": "sti",
    "merge": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tsv_exp' has no attribute {name!r}")
    return getattr(import_module(f"tsv_exp.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
