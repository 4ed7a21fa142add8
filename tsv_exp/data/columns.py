"""Which columns of a table hold inputs and labels, and what they mean for a task."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsv_exp.data.examples import VALUES, Examples, Kind, check_labels, check_names, plain
from tsv_exp.errors import UserError
from tsv_exp.tasks.task import Task

INTEGER = re.compile("u?int|bool")  # a boolean column is a valid label column of two classes
TEXT = re.compile("string|large_string")
USUAL: Mapping[str, Sequence[str]] = {
    "image": ("image", "img"),
    "text": ("text", "sentence", "content"),
    "label": ("label", "labels", "fine_label", "class"),
}
REMEDY = (
    "name it in the task's YAML (data: {input: …, label: …}), "
    "or give the data as one folder per class: tasks.<name>.data=DIR"
)


class Columns(NamedTuple):
    """The columns of inputs (several texts make a tuple) and of labels."""

    inputs: tuple[str, ...]
    label: str


def choose(table: Any, given: Mapping[str, Any], task: Task, kind: Kind, where: str) -> Columns:
    """The columns that the task's YAML names, else the only candidates.

    Raises:
        UserError: there is no candidate, or more than one.
    """
    label = _label(table.features, given["label"], len(task.classes), task.metric in VALUES, where)
    return Columns(_inputs(table.features, given["input"], label, kind, where), label)


def names_of(table: Any, label: str | None, kind: Kind, where: str) -> list[str]:
    """The classes of a label column: its own names, its sorted texts, or the numbers from 0."""
    found = _label(table.features, label, None, False, where)
    feature = table.features[found]
    if getattr(feature, "names", None):
        return list(feature.names)
    values = {value for value in table[found] if value is not None}
    if TEXT.match(feature.dtype):
        return sorted(values)
    if not INTEGER.match(feature.dtype):
        raise UserError(
            f"{where}: the labels in {found!r} are {feature.dtype}, not classes; "
            f"for values choose a metric of {', '.join(VALUES)}"
        )
    return [str(number) for number in range(int(max(values, default=-1)) + 1)]


def content(table: Any, columns: Columns, task: Task, kind: Kind, where: str, folder: Path) -> Examples:
    """The rows of a table; image paths are relative to `folder`."""
    from datasets import Image

    labels = _labels(table, columns.label, task, where)
    check_labels(task, labels, where)
    if kind == "text":
        texts = [table[name] for name in columns.inputs]
        if len(texts) == 1:
            return Examples(where, labels, lambda index: texts[0][index])
        return Examples(where, labels, lambda index: tuple(text[index] for text in texts))
    (picture,) = columns.inputs
    if not isinstance(table.features[picture], Image):
        paths = table[picture]
        return Examples(where, labels, lambda index: (folder / str(paths[index])).read_bytes())
    encoded = table.select_columns([picture]).cast_column(picture, Image(decode=False))

    def read(index: int) -> bytes:
        found = encoded[index][picture] or {}
        return bytes(found.get("bytes") or (Path(found["path"]).read_bytes() if found.get("path") else b""))

    return Examples(where, labels, read)


def _label(features: Mapping[str, Any], given: str | None, classes: int | None, values: bool, where: str) -> str:
    from datasets import ClassLabel, Value

    if given is not None:
        return _there(features, given, where)
    named = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    plain_ones = {name: kind.dtype for name, kind in features.items() if isinstance(kind, Value)}
    numbers = [name for name, kind in plain_ones.items() if INTEGER.match(kind) or (values and "float" in kind)]
    usual = [name for name in USUAL["label"] if name in plain_ones]
    fitting = [name for name in named if features[name].num_classes == classes]
    return _one(
        fitting or named or numbers or usual, USUAL["label"], f"{where}: expected one column of labels among", features
    )


def _inputs(features: Mapping[str, Any], given: Any, label: str, kind: Kind, where: str) -> tuple[str, ...]:
    from datasets import Image, Value

    if given is not None:
        names = [given] if isinstance(given, str) else list(given)
        if kind == "image" and len(names) > 1:
            raise UserError(f"{where}: data.input={names}: give one column; an image cannot span several columns")
        return tuple(_there(features, name, where) for name in names)
    texts = [
        name for name, one in features.items() if isinstance(one, Value) and TEXT.match(one.dtype) and name != label
    ]
    pictures = [name for name, one in features.items() if isinstance(one, Image)]
    problem = f"{where}: expected one column of {kind}s among"
    return (_one(pictures if kind == "image" else texts, USUAL[kind], problem, features),)


def _there(features: Mapping[str, Any], name: str, where: str) -> str:
    if name not in features:
        raise UserError(f"{where}: there is no column {name!r} among {_listed(features)}; correct the task's YAML")
    return name


def _one(names: Sequence[str], usual: Sequence[str], problem: str, features: Mapping[str, Any]) -> str:
    known = [name for name in usual if name in names]
    if len(names) == 1 or known:
        return str(known[0]) if known else names[0]
    raise UserError(f"{problem} {_listed(features)}; {REMEDY}")


def _listed(features: Mapping[str, Any]) -> str:
    kinds = (f"{name}: {getattr(kind, 'dtype', type(kind).__name__)}" for name, kind in features.items())
    return f"({', '.join(kinds)})"


def _labels(table: Any, label: str, task: Task, where: str) -> Tensor:
    kind = table.features[label]
    values = table[label]
    if task.metric in VALUES:
        return torch.tensor([float("nan") if value is None else float(value) for value in values], dtype=torch.float32)
    if getattr(kind, "names", None):
        check_names(task, list(kind.names), where)
    if not TEXT.match(str(kind.dtype)) or hasattr(kind, "names"):
        return torch.tensor([-1 if value is None else int(value) for value in values], dtype=torch.int64)
    places = {plain(name): place for place, name in enumerate(task.classes)}
    for row, value in enumerate(values):
        if value is None or plain(value) not in places:
            raise UserError(
                f"{where}: the label {value!r} of row {row} is not one of the task's classes "
                f"({', '.join(task.classes[:3])} …); correct it, or add it to classes in the task's YAML"
            )
    return torch.tensor([places[plain(value)] for value in values], dtype=torch.int64)
