"""Builds tasks and their sources of examples from their definitions (YAML)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from tsv_exp.data.examples import VALUES, Kind, Source
from tsv_exp.data.folders import class_folders
from tsv_exp.data.tables import Tables, is_file
from tsv_exp.errors import UserError
from tsv_exp.tasks.definitions import Definition
from tsv_exp.tasks.task import Task

SPLITS = ("train", "validation", "test")
KEYS = ("hub", "path", "config", "input", "label", *SPLITS)


def task_of(name: str, definition: Definition, family: str, templates: Sequence[str], kind: Kind) -> Task:
    """The task that a definition describes.

    Args:
        name: the task's name.
        definition: see `tsv_exp.tasks.definitions`.
        family: the family of checkpoints; keys under `families` for this family override the others.
        templates: default prompts.
        kind: the kind of input that the model encodes.

    Raises:
        UserError: neither the definition nor the data name the classes.
    """
    found = {**definition, **(definition.get("families") or {}).get(family, {})}
    metric = str(found.get("metric") or "accuracy")
    source = {key: value for key, value in found.items() if key not in ("classes", "templates", "metric", "families")}
    task = Task(name, (), (), source, metric)
    classes: Any = found.get("classes")
    prompts = found.get("templates")
    if classes is None and metric not in VALUES:
        classes = source_of(task).class_names(kind)
        if not classes:
            raise UserError(f"task {name}: neither its YAML nor its data names classes; add a line classes: [...]")
    if prompts is None:
        prompts = getattr(source_of(task), "templates", templates)
    written = [prompts] if isinstance(prompts, str) else list(prompts or ())
    return Task(name, tuple(map(str, classes or ())), tuple(map(str, written)), source, metric)


def local_place(name: str, data: Mapping[str, Any]) -> Path:
    """The folder or table that `data.path` of a task names.

    Raises:
        UserError: there is none.
    """
    place = Path(str(data["path"])).expanduser()
    if not place.is_dir() and not (place.is_file() and is_file(str(place))):
        missing = "no such folder" if not place.is_file() else "not a table that can be read"
        raise UserError(f"tasks.{name}.data={data['path']}: {missing}")
    return place


def source_of(task: Task) -> Source:
    """Where a task's examples come from.

    Raises:
        UserError: the definition names no data, or a path that does not exist.
    """
    name, data = task.name, task.source["data"]
    if "_target_" in data:
        found: Source = instantiate(dict(data))
        return found
    for given in data:
        if given not in KEYS:
            raise UserError(f"task {name}: unknown key data.{given}; data has: {', '.join(KEYS)}")
    if data.get("hub"):
        return Tables(name, str(data["hub"]), data)
    if not data.get("path"):
        if not any(is_file(data.get(split)) for split in SPLITS):
            raise UserError(f"task {name}: data needs hub: OWNER/NAME, path: FOLDER, or a file for each split")
        return Tables(name, None, data)
    place = local_place(name, data)
    wanted = [split for split in SPLITS if data.get(split, split) is not None]
    names = {split: (str(data.get(split, split)), split) for split in wanted}
    return class_folders(name, place, names, [split for split in wanted if split in data]) or Tables(name, place, data)
