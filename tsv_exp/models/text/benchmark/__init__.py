"""Twenty text classification tasks with real texts: their definitions, and a reader of their examples.

benchmarks/build_text_benchmark.py makes the files in data/; NOTICE.md next to this file lists sources and licences.
"""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

DATA = Path(__file__).with_name("data")


class Texts(NamedTuple):
    """One split of a task: texts, labels as indices into the task's classes, and a group number per text, or None."""

    texts: list[str]
    labels: list[int]
    groups: list[int] | None = None


@cache
def tasks() -> dict[str, dict]:
    """Return the tasks by name, in the order of the task sets: classes, templates, sizes, majority rate, licence ..."""
    return {task["name"]: task for task in json.loads((DATA / "tasks.json").read_text("utf-8"))}


def load(name: str, split: Literal["train", "validation", "test"]) -> Texts:
    """Return a split of a task; raises KeyError for an unknown task."""
    with gzip.open(DATA / f"{tasks()[name]['name']}.json.gz", "rt", encoding="utf-8") as file:
        return Texts(**json.load(file)[split])
