"""The 20 tasks of the benchmark (tasks.yaml), as each family of checkpoints was trained on them."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from tsv_exp.tasks.task import Task

OWN = ("class_names", "templates")


@cache
def _entries() -> Any:
    return yaml.safe_load(files("tsv_exp.models.clip").joinpath("tasks.yaml").read_text(encoding="utf-8"))


def catalogue(labels: str) -> dict[str, Task]:
    """All tasks in the paper's order, with the class names and prompts of a family's own labels.

    Args:
        labels: a family; where an entry has `<labels>_class_names` or `<labels>_templates`, those are taken.
    """
    tasks = {}
    for entry in _entries():
        classes, templates = (tuple(entry.get(f"{labels}_{key}", entry[key])) for key in OWN)
        source = {key: value for key, value in entry.items() if not key.endswith(OWN)}
        tasks[entry["name"]] = Task(entry["name"], classes, templates, source)
    return tasks
