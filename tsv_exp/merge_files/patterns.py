"""Checks that every pattern of names in the options matches something, before anything is merged."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from tsv_exp.errors import UserError
from tsv_exp.merge_files.options.options import Options
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.merging.layer import Weights


def check_patterns(options: Options, bases: Sequence[Weights], models: Iterable[str]) -> None:
    """Check the patterns of `keep`, `ignore`, `exclude`, `stacks` and `layers`.

    Args:
        options: of the whole merge.
        bases: the base, or its components.
        models: names of the models' tensors.

    Raises:
        UserError: a pattern matches no tensor that it can apply to.
    """
    floating = [
        (name, weight.dim())
        for base in bases
        for name, weight in base.items()
        if weight.is_floating_point() and not matches(name, options.keep)
    ]
    _all_match("keep", options.keep, [name for base in bases for name in base], "base's tensors")
    _all_match("ignore", options.ignore, list(models), "models' tensors")
    _all_match("exclude", options.exclude, [name for name, dim in floating if dim in (2, 3)], "base's 2-D weights")
    _all_match("stacks", options.stacks, [name for name, dim in floating if dim == 3], "base's 3-D weights")
    left = [name for name, _ in floating]
    for pattern in options.layers:
        rest = [name for name in left if not fnmatchcase(name, pattern)]
        if len(rest) == len(left):
            some = ", ".join(name for name, _ in floating[:3])
            raise UserError(f"layers: {pattern!r} is the first match of no layer ({some}, ...)")
        left = rest


def _all_match(option: str, patterns: Iterable[str] | None, names: Sequence[str], what: str) -> None:
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            some = f" ({', '.join(names[:3])}, ...)" if names else ""
            raise UserError(f"{option}={pattern!r} matches none of the {what}{some}; * is any part of a name")
