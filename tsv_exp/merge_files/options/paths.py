"""Parses paths of the command line as text, not as YAML, and derives names of tasks from them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tsv_exp.checkpoints.formats import SUFFIXES
from tsv_exp.errors import UserError

_QUOTES = "'\""


def text(value: str) -> str | None:
    """A value as typed, without surrounding quotes; None if it is empty or null."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES:
        return value[1:-1]
    return None if value in ("", "null") else value


def is_text(word: str) -> bool:
    """Whether a word is valid Unicode: names of files may be any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def paths(value: str) -> list[str] | dict[str, str]:
    """One path, a list [a, b] or a mapping {task: a, task: b} of paths; quotes protect commas and colons.

    Raises:
        UserError: a bracket or a quote is not closed, or a task has no path.
    """
    value = value.strip()
    closing = {"[": "]", "{": "}"}.get(value[:1])
    if closing is None:
        single = text(value)
        return [] if single is None else [single]
    if not value.endswith(closing):
        raise UserError(f"cannot read models={value} (no {closing} at its end); put quotes around the whole word")
    items = [item for item in (part.strip() for part in _split(value[1:-1], ",")) if item]
    if closing == "]":
        return [text(item) or item for item in items]
    found = {}
    for item in items:
        task, *path = (text(part) for part in _split(item, ":", once=True))
        if not task or not path or not path[0]:
            raise UserError(
                f"cannot read models={value} ({item!r} is not TASK: PATH); put quotes around the whole word"
            )
        if task in found:
            raise UserError(f"models={value}: {task!r} is there twice; name each model once")
        found[task] = path[0]
    return found


def _split(value: str, separator: str, once: bool = False) -> Iterator[str]:
    """Split at separators outside quotes; a quote inside a word is an ordinary character."""
    quote, start = "", 0
    for i, letter in enumerate(value):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES and value[start:i].rstrip()[-1:] in ("", ":"):
            quote = letter
        elif letter == separator:
            yield value[start:i]
            start = i + 1
            if once:
                break
    if quote and not once:
        raise UserError(f"cannot read {value!r} (the quote {quote} is not closed); close it, or leave it out")
    yield value[start:]


def named(given: Sequence[str]) -> dict[str, str]:
    """Name tasks by the shortest distinct end of their path, without the checkpoint suffix if still distinct.

    Raises:
        UserError: a path is given twice.
    """
    ways = [_parts(path) for path in given]
    for strip in (True, False):
        for depth in range(1, 1 + max(map(len, ways), default=0)):
            names = ["-".join([*parts[:-1], _stem(parts[-1]) if strip else parts[-1]][-depth:]) for parts in ways]
            if len(set(names)) == len(given):
                return dict(zip(names, given, strict=True))
    raise UserError("models: the same path is given twice; name each model once")


def _parts(path: str) -> list[str]:
    parts = Path(path).expanduser().parts
    if not parts or {".", ".."} & set(parts):
        parts = Path(os.path.abspath(path)).parts
    return [part for part in parts if part != os.sep] or ["model"]


def _stem(name: str) -> str:
    known = [suffix for suffix in SUFFIXES if name.endswith(suffix) and name != suffix]
    return name.removesuffix(max(known, key=len)) if known else name
