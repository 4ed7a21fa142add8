"""What a task of the text benchmark is before it is split."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from text_benchmark.packages import Packages


class Example(NamedTuple):
    """One text, the key of its class, and what must stay within one split (None: nothing)."""

    text: str
    label: str
    group: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A task: its classes in order, how prompts name them, where the examples come from and under which licence."""

    name: str
    question: str
    classes: dict[str, str]
    templates: tuple[str, ...]
    packages: tuple[str, ...]
    licence: str
    credit: str
    rows: Callable[[Packages], Iterable[Example]]
    grouped_by: str | None = None


def squeeze(text: str) -> str:
    """Return the text with every run of white space as one space."""
    return re.sub(r"\s+", " ", text).strip()


def shorten(text: str, limit: int = 200) -> str:
    """Return the text cut at a word boundary, at most `limit` characters long."""
    text = squeeze(text)
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0].rstrip(",;:")


def sentences(text: str) -> list[str]:
    """Return the sentences of running text: split after . ! ? where a capital letter follows."""
    return re.split(r"(?<=[.!?])\s+(?=[\"'A-Z])", squeeze(text))
