"""tsv_exp: merge fine-tuned models with Task Singular Vectors (arXiv 2412.00081).

Importing the package is fast: public names are loaded on first use.
"""

TYPE_CHECKING = False  # as typing's, whose import takes as long as all of the start of a command
if TYPE_CHECKING:
    from typing import Any

    from tsv_exp.analyze.interference import interference
    from tsv_exp.api import merge
    from tsv_exp.decompositions.algebra import factors_suffice
    from tsv_exp.errors import UserError
    from tsv_exp.layers import LowRank, Masked
    from tsv_exp.merging.engine import Merged, apply
    from tsv_exp.merging.layer import entrywise, matrices_only
    from tsv_exp.methods.specification.method import Method
    from tsv_exp.routing.serving.served import load

    __version__: str

_MODULES = {
    "LowRank": "layers",
    "Masked": "layers",
    "Merged": "merging.engine",
    "Method": "methods.specification",
    "UserError": "errors",
    "apply": "merging.engine",
    "entrywise": "merging.layer",
    "factors_suffice": "decompositions.algebra",
    "interference": "analyze.interference",
    "load": "routing.serving.served",
    "matrices_only": "merging.layer",
    "merge": "api",
}

__all__ = [
    "LowRank",
    "Masked",
    "Merged",
    "Method",
    "UserError",
    "__version__",
    "apply",
    "entrywise",
    "factors_suffice",
    "interference",
    "load",
    "matrices_only",
    "merge",
]


def __getattr__(name: str) -> "Any":
    if name == "__version__":
        from importlib.metadata import version

        return version("tsv_exp")
    if name not in _MODULES:
        raise AttributeError(f"module 'tsv_exp' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tsv_exp.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
