"""The options keep and ignore in error messages, with patterns that a user can copy."""

import re
from collections.abc import Sequence
from glob import escape

from tsv_exp.merging.inputs.alignment import matches

_SHOWN = 3  # names in a message
_MOST = 8  # patterns in a message


def listed(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def option(name: str, tensors: Sequence[str], others: Sequence[str], effect: str) -> str:
    """An option for some tensors as text, such as `"keep=['head.*']" takes the base's values`.

    Args:
        name: keep or ignore.
        tensors: names that the option has to match.
        others: names that it must not match.
        effect: what the option does.
    """
    patterns = _shortened(tensors, others)
    most = _MOST if any("*" in pattern for pattern in patterns) else _SHOWN
    shown = [f"'{pattern}'" for pattern in patterns[:most]] + ["..."] * (len(patterns) > most)
    return f'"{name}=[{", ".join(shown)}]" {effect}'


def _shortened(tensors: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names as patterns, or if there are many a few patterns that match all of them and no other name."""
    if len(tensors) > _SHOWN:
        ways = (
            (re.sub(r"\..*", ".*", name) for name in tensors),  # a module
            (re.sub(r"(\.\d+)\..*", r"\1.*", name) for name in tensors),  # a layer
            (f"*.{'.'.join(name.split('.')[-2:])}" for name in tensors),  # a buffer of every layer
            (re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in tensors),  # tensors of every layer
            (f"*.{name.rpartition('.')[2]}" for name in tensors),  # all biases
        )
        few = [patterns for patterns in map(list, map(dict.fromkeys, ways)) if len(patterns) <= _MOST]
        fitting = [
            patterns
            for patterns in few
            if all(matches(name, patterns) for name in tensors)  # a bracket in a name is no pattern
            and not any(matches(name, patterns) for name in others)
        ]
        if fitting:
            return min(fitting, key=len)
    return [escape(name) for name in tensors]
