"""Reads the definitions of tasks and task sets on the search path: task/<name>.yaml and task_set/<name>.yaml."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError, did_you_mean
from tsv_exp.runtime.options import composed, described, explained, folder_of, option_files

Definition = dict[str, Any]  # a task's YAML with the run's settings

KEYS = ("data", "classes", "templates", "metric", "checkpoint", "checkpoint_name", "finetune_epochs", "families")
LAYOUT = ("input", "label", "train", "validation", "test")  # keys of any kind of data
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")


def selected(plain: Mapping[str, Any]) -> list[tuple[str, Definition]]:
    """Name and definition of each task that a configuration's `tasks` chooses, in their order.

    Args:
        plain: a configuration as plain containers, with `tasks` (a number, the name of a task set, or a list of tasks),
            `model.task_set` (whose first tasks a number means) and `task` (name -> keys that replace those of the
            task's YAML).

    Raises:
        UserError: an unknown task, set or key, a number that is too large, an empty list, a name given twice.
    """
    given = [plain["tasks"], plain["model"].get("task_set"), plain.get("task") or {}]
    return list(_selected(json.dumps(given), tuple(_sources())))


@lru_cache(maxsize=256)
def _selected(given: str, sources: tuple[str, ...]) -> list[tuple[str, Definition]]:
    """Cached: listing the folders of tasks is slow, and all runs of a sweep ask more than once."""
    wanted, task_set, settings = json.loads(given)
    _known(settings, "tasks.{}: unknown task")
    return chosen(task_names(wanted, task_set), settings)


def chosen(names: Sequence[str], settings: Mapping[str, Any]) -> list[tuple[str, Definition]]:
    """Name and definition of each of these existing tasks; see `define`."""
    return list(zip([_plain(name) for name in names], define(names, settings), strict=True))


def task_names(wanted: Any, task_set: str | None) -> list[str]:
    """The names that `tasks` selects: a number, a task set's name or a list of tasks.

    Raises:
        UserError: it is something else.
    """
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return _first(wanted, task_set)
    if isinstance(wanted, str) and NAME.fullmatch(wanted):
        return members(wanted)
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise UserError(
            f"tasks={wanted}: give a number such as tasks=8, a task set, or a list such as tasks='[Cars,DTD]'"
        )
    names = [str(name) for name in wanted]
    if not names:
        raise UserError(f"tasks=[]: the list is empty; choose from: {', '.join(options('task'))}")
    _known(names, "tasks: unknown task")
    plain = [_plain(name) for name in names]
    for name in plain:
        if plain.count(name) > 1:
            raise UserError(f"tasks: {name!r} is given more than once; name each task once")
    return names


def members(task_set: str) -> list[str]:
    """The tasks of a task set, in their order.

    Raises:
        UserError: there is no such set, or its file is not a list of known tasks.
    """
    known = options("task_set")
    if task_set not in known:
        hint = f"; for one task: tasks='[{task_set}]'" if task_set in options("task") else ""
        raise UserError(f"tasks={task_set}: unknown task set; choose from: {', '.join(known)}{hint}")
    (found,) = _composed("task_set", (task_set,), tuple(_sources()))
    names = found.get("tasks")
    if set(found) != {"tasks"} or not isinstance(names, list) or not names:
        raise UserError(f"task_set/{task_set}.yaml: expected one key, tasks: a list of names of tasks")
    return task_names(names, None)


def define(names: Sequence[str], settings: Mapping[str, Any]) -> list[Definition]:
    """The definitions of existing tasks; a run's settings override the task's YAML.

    Raises:
        UserError: two files have the same name, or a file has an unknown key.
    """
    for name in names:
        places = [source for source in _sources() if f"{name}.yaml" in _files(source, "task")]
        if len(places) > 1:
            raise UserError(f"task {name!r} is in {' and in '.join(map(str, places))}: rename yours")
    return [
        complete(name, found, settings.get(_plain(name)) or settings.get(name, {}))
        for name, found in zip(names, _composed("task", tuple(names), tuple(_sources())), strict=True)
    ]


def complete(name: str, found: Definition, settings: Mapping[str, Any]) -> Definition:
    """A task's YAML with a run's settings, checked; a path that replaces its data keeps column and split names.

    Raises:
        UserError: an unknown key, or no data.
    """
    data, own = found.get("data") or {}, settings.get("data") or {}
    if isinstance(own, str):
        own = {**{key: value for key, value in _place(data).items() if key in LAYOUT}, "path": own}
    else:
        own = {**_place(data), **own}
    joined = {**found, **settings, "data": own}
    for key in joined:
        if key not in KEYS:
            raise UserError(f"task {name}: unknown key {key!r}; a task has: {', '.join(KEYS)}")
    if not joined["data"]:
        raise UserError(f"task {name}: its YAML names no data; add a line such as data: FOLDER")
    return joined


def options(group: str) -> list[str]:
    """The names in a group of the configuration, including those of user-added search paths."""
    return list(option_files(group, _sources()))


def _first(count: int, task_set: str | None) -> list[str]:
    if task_set is None:
        raise UserError(f"tasks={count}: this model has no task_set; give a list: tasks='[Cars,DTD]'")
    names = members(task_set)
    if not 1 <= count <= len(names):
        raise UserError(f"tasks={count}: this model has {len(names)} tasks; give 1 to {len(names)} or a list of names")
    return names[:count]


def _known(names: Iterable[str], problem: str) -> None:
    known = options("task")
    for name in names:
        if name not in known and name not in map(_plain, known):
            hint = did_you_mean(name, known)
            raise UserError(f"{problem.format(name)} {name!r}; {hint}choose from: {', '.join(known)}")


def _plain(name: str) -> str:
    return name.rpartition("/")[2]


def _place(data: Any) -> dict[str, Any]:
    return {"path": data} if isinstance(data, str) else dict(data)


def _sources() -> list[str]:
    """file:// and pkg:// addresses of the search path: the package's, then those of the command line."""
    own = f"file://{conf_dir()}"
    if not HydraConfig.initialized():
        return [own]
    found = [f"{source.schema}://{source.path}" for source in HydraConfig.get().runtime.config_sources]
    added = [place for place in found if place.startswith(("file://", "pkg://")) and place != "pkg://hydra.conf"]
    return list(
        dict.fromkeys([own, *(place for place in added if place.startswith("pkg://") or folder_of(place).is_dir())])
    )


def _files(source: str, group: str) -> set[str]:
    folder = folder_of(source) / group
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}


@lru_cache(maxsize=16)
def _composed(group: str, names: tuple[str, ...], sources: tuple[str, ...]) -> tuple[Definition, ...]:
    """Cached: the commands ask more than once."""
    return tuple(composed(group, names, sources))


OmegaConf.register_new_resolver("options", lambda group: ", ".join(options(group)), replace=True)  # in --help
OmegaConf.register_new_resolver("described", lambda group: described(group, _sources()), replace=True)
OmegaConf.register_new_resolver("explained", lambda *names: explained([conf_dir() / n for n in names]), replace=True)
