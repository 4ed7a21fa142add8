"""Validates values from untrusted files: type and size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent
from yaml.nodes import Node

_LONGEST = 300  # longest name in characters
_TEXT = 10_000  # longest other text
_LARGEST = 1e18  # largest number
_DEEPEST = 6  # deepest nesting of a parameter's value
_MOST = 10_000  # most values in a parameter


def name_of(what: str, value: Any) -> str:
    """Check a name: one printable line of text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
        raise ValueError(f"{what} is {_shown(value)}, not a name of at most {_LONGEST} characters")
    return value


def line_of(value: Any) -> str:
    """Convert a text to one printable line of bounded length."""
    line = " ".join(str(value)[:_TEXT].split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def number(what: str, value: Any, least: float = 0, most: float = _LARGEST) -> float:
    """Check a number in a range.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        reach = "up" if most == _LARGEST else f"to {most:g}"
        raise ValueError(f"{what} is {_shown(value)}, not a number from {least:g} {reach}")
    return value


def whole(what: str, value: Any, least: int = 0, most: float = _LARGEST) -> int:
    """Check a whole number in a range.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int):
        raise ValueError(f"{what} is {_shown(value)}, not a whole number")
    return int(number(what, value, least, most))


def values_of(what: str, value: Any) -> dict[str, Any]:
    """Check a table of names and plain values: numbers, names, and lists and tables of them.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is {_shown(value)}, not a table of values")
    left = _count(what, value, _DEEPEST, _MOST)
    if left < 0:
        raise ValueError(f"{what} has more than {_MOST} values")
    return dict(value)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file that Hydra wrote.

    Raises:
        OSError, ValueError, RecursionError, YAMLError: it cannot be read, or contains aliases.
    """
    if not path.is_file():
        raise OSError(f"{path.name} is missing, or not a regular file")
    return yaml.load(path.read_text(encoding="utf-8"), _Plain)


class _Plain(yaml.SafeLoader):
    """A loader without aliases, by which a small file could expand to any number of values."""

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self.check_event(AliasEvent):
            raise ValueError("it refers to its own parts")
        return super().compose_node(parent, index)


def _count(what: str, value: Any, depth: int, left: int) -> int:
    """The remaining number of allowed values; negative if there were too many."""
    if depth < 0:
        raise ValueError(f"{what} is nested too deeply")
    if isinstance(value, Mapping):
        for name in value:
            name_of(f"a key of {what}", name)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            if left < 0:
                break
            left = _count(what, item, depth - 1, left - 1)
    elif isinstance(value, str):
        if len(value) > _TEXT or line_of(value) != " ".join(value.split()):
            raise ValueError(f"{what} holds {_shown(value)}, not a text of at most {_TEXT} characters")
    elif isinstance(value, int):
        number(what, int(value), -_LARGEST)  # larger integers cannot be formatted
    elif value is not None and not isinstance(value, float):
        raise ValueError(f"{what} holds a {type(value).__name__}")
    return left


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}..."
