"""Numbers of things in messages (1 file, 2 files), and the first of many names."""

from collections.abc import Sequence

_SHOWN = 3  # names in a message


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun, which is `one` or `many`; by default `many` is `one` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def some(names: Sequence[str]) -> str:
    """The first names, and dots if there are more."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
