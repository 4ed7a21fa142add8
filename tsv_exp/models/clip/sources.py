"""Pictures and labels of data sets on the hub or in local folders; only the files of the split that is asked for."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tsv_exp.checkpoints import downloads, hub
from tsv_exp.errors import UserError
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Task

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")
INTEGER = re.compile("u?int|bool")  # two classes may be false and true
EMPTY = "the split is empty; fetch the data again, or give another copy: tasks.<name>.data=DIR"
TABLES = (".parquet", ".arrow", ".tar", ".zip")


@dataclass(frozen=True)
class Rows:
    """The rows of one split: labels (N,), checked against the task, and the encoded picture of each."""

    where: str
    labels: Tensor
    encoded: Callable[[int], bytes]

    def picture(self, index: int) -> Image.Image:
        """One picture, decoded.

        Raises:
            UserError: it cannot be decoded.
        """
        try:
            picture = Image.open(io.BytesIO(self.encoded(index)))
            picture.load()
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{self.where}: row {index} is no picture that can be decoded ({error}); fetch the data again, "
                "or give another copy as tasks.<name>.data=DIR"
            ) from error
        return picture


def rows(task: Task, split: str, local: Path | None) -> Rows:
    """One split ("train" or "test") of a task's data, from a local folder or from the hub.

    Args:
        task: `source` says where the hub keeps its data.
        split: the hub's own name of the test split is looked up.
        local: in the hub's layout, or train/ and test/ with one folder per class.

    Raises:
        UserError: the data cannot be had, or don't fit the task's classes.
    """
    name = task.source.get("hub_test_split", "test") if split == "test" else split
    if local is not None and not local.is_dir():
        raise UserError(f"tasks.{task.name}.data={local}: no such folder")
    if local is not None:
        for folder in (local / name, local / split):
            if folder.is_dir() and _has_class_folders(folder):
                return _class_folders(task, folder)
    place = str(local) if local is not None else str(task.source["hub_dataset"])
    where = f"data of {task.name} ({place}, split {name})"
    # In a local folder, files of a configuration need not be told apart by the hub's name for it.
    table = _table(place, None if local is not None else task.source.get("hub_config"), name, where)
    picture, label = _columns(table, task, where)
    return _table_rows(table, picture, label, task, where)


def identity(task: Task, local: Path | None) -> str:
    """Digest of where the data come from: the hub's name, or a local folder's files with their sizes and times."""
    if local is None:
        return digest([task.source.get(key) for key in ("hub_dataset", "hub_config", "hub_test_split")])
    files = sorted(path for path in local.rglob("*") if path.is_file())
    stats = [(str(path.relative_to(local)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digest(str(local.resolve()), stats)


def _table(place: str, config: str | None, split: str, where: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetBuildError

    try:
        with hub.failures(where):
            builder = datasets.load_dataset_builder(place, name=config)
            found = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
            if split not in found:
                raise UserError(f"{where}: there is no such split; it has: {', '.join(found) or 'none'}")
            downloads.data(found[split])
            # Naming the files of one split keeps the other splits' files from being downloaded.
            return datasets.load_dataset(builder.name, data_files={split: found[split]}, split=split)
    except (FileNotFoundError, ValueError, DatasetBuildError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        if "corresponds to no data" in reason:
            raise UserError(f"{where}: {EMPTY}") from error
        raise UserError(
            f"{where}: damaged, or not laid out as data ({reason}); expected parquet files, or one folder per class: "
            "fetch them again, or give another copy as tasks.<name>.data=DIR"
        ) from error


def _columns(table: Any, task: Task, where: str) -> tuple[str, str]:
    from datasets import ClassLabel, Image, Value

    features: Mapping[str, Any] = table.features
    given = task.source.get("hub_columns", {})
    pictures = [name for name, kind in features.items() if isinstance(kind, Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    numbers = [name for name, kind in features.items() if isinstance(kind, Value) and INTEGER.match(kind.dtype)]
    fitting = [name for name in classes if features[name].num_classes == len(task.classes)]
    listed = ", ".join(f"{name}: {getattr(kind, 'dtype', type(kind).__name__)}" for name, kind in features.items())
    picture = _one(pictures, given.get("image"), f"{where}: expected one column of images among ({listed})")
    label = _one(
        fitting or classes or numbers, given.get("label"), f"{where}: expected one column of labels among ({listed})"
    )
    return picture, label


def _one(names: Sequence[str], preferred: str | None, problem: str) -> str:
    usual = [name for name in (preferred, "image", "label", "labels", "fine_label") if name in names]
    if len(names) == 1 or usual:
        return str(usual[0]) if usual else names[0]
    raise UserError(f"{problem}; give the data as one folder per class: tasks.<name>.data=DIR")


def _table_rows(table: Any, picture: str, label: str, task: Task, where: str) -> Rows:
    from datasets import Image

    kind = table.features[label]
    if getattr(kind, "names", None):
        check_names(task, list(kind.names), where)
    labels = torch.tensor([-1 if value is None else value for value in table[label]], dtype=torch.int64)
    _check_labels(task, labels, where)
    encoded = table.select_columns([picture]).cast_column(picture, Image(decode=False))

    def content(index: int) -> bytes:
        found = encoded[index][picture] or {}
        return bytes(found.get("bytes") or (Path(found["path"]).read_bytes() if found.get("path") else b""))

    return Rows(where, labels, content)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def check_names(task: Task, names: Sequence[str], where: str) -> None:
    """Compare a data set's own class names with the task's: their number, and the place of every name that both have.

    Raises:
        UserError: they don't agree.
    """
    if len(names) != len(task.classes):
        raise UserError(
            f"{where} has {len(names)} classes ({names[0]}, {names[1] if len(names) > 1 else ''} …), but the task has "
            f"{len(task.classes)} ({task.classes[0]} …); these checkpoints need other data: tasks.{task.name}.data=DIR"
        )
    places = {_plain(name): place for place, name in enumerate(task.classes)}
    if all(name.isdecimal() for name in names):  # class numbers, that were perhaps sorted as texts: 0, 1, 10, 11, …
        places |= {name: place for place, name in enumerate(sorted(names, key=int)) if name not in places}
    for number, name in enumerate(names):
        expected = places.get(_plain(name), number)
        if expected != number:
            raise UserError(
                f"{where}: class {number} is {name!r}, but the task has that class at {expected}; "
                "the labels are in another order: give the data as one folder per class"
            )


def _check_labels(task: Task, labels: Tensor, where: str) -> None:
    if not len(labels):
        raise UserError(f"{where}: {EMPTY}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(task.classes):
        raise UserError(
            f"{where}: labels go from {low} to {high}, but the task's {len(task.classes)} classes are 0 to "
            f"{len(task.classes) - 1}; these checkpoints need other data: tasks.{task.name}.data=DIR"
        )


def _has_class_folders(folder: Path) -> bool:
    inside = list(folder.iterdir())
    return any(path.is_dir() for path in inside) and not any(path.suffix in TABLES for path in inside)


def _class_folders(task: Task, folder: Path) -> Rows:
    where = f"data of {task.name} ({folder})"
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    places = {_plain(name): place for place, name in enumerate(task.classes)}
    places |= {str(place): place for place in range(len(task.classes)) if str(place) not in places}
    found: list[tuple[Path, int]] = []
    for path in folders:
        if _plain(path.name) not in places:
            raise UserError(
                f"{where}: the folder {path.name!r} is none of the task's classes ({', '.join(task.classes[:3])} …); "
                "name the folders by class, or by class number from 0"
            )
        place = places[_plain(path.name)]
        found += [(file, place) for file in sorted(path.rglob("*")) if file.suffix.lower() in PICTURES]
    labels = torch.tensor([place for _, place in found], dtype=torch.int64)
    _check_labels(task, labels, where)
    return Rows(where, labels, lambda index: found[index][0].read_bytes())
