"""Image folders with one subfolder per class, with or without train/ and test/ folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tsv_exp.data.examples import Examples, Kind, check_labels, plain
from tsv_exp.errors import UserError
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import SplitName, Task

FILES: Mapping[Kind, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"),
    "text": (".txt",),
}
TABLES = (".parquet", ".arrow", ".tar", ".zip", ".csv", ".tsv", ".json", ".jsonl")


class ClassFolders:
    """A folder with one subfolder per class, named by class or by number from 0, per split or without splits.

    Args:
        name: of the task.
        root: the folder.
        splits: split -> its folder's name below `root`; if empty, all examples are for training.
        required: splits that must exist; other missing splits are drawn from train.
    """

    def __init__(self, name: str, root: Path, splits: Mapping[str, str], required: Sequence[str] = ()):
        self.name = name
        self.root = root
        self.splits = splits
        self.required = required

    def class_names(self, kind: Kind) -> Sequence[str]:
        """The names of the class folders of train, sorted; numbers by value."""
        names = [path.name for path in _folders(self._existing("train"))]
        return sorted(names, key=int) if all(name.isdecimal() for name in names) else names

    def has(self, split: SplitName) -> bool:
        """Whether this split has a folder, or must have one."""
        return split in self.splits or split in self.required or (split == "train" and not self.splits)

    def examples(self, task: Task, split: SplitName, kind: Kind) -> Examples:
        """The files of a split, sorted by class folder.

        Raises:
            UserError: there is no such split, it is empty, or a folder is not one of the task's classes.
        """
        folder = self._existing(split)
        where = f"data of {task.name} ({folder})"
        places = {plain(name): place for place, name in enumerate(task.classes)}
        places |= {str(place): place for place in range(len(task.classes)) if str(place) not in places}
        found: list[tuple[Path, int]] = []
        for path in _folders(folder):
            if plain(path.name) not in places:
                raise UserError(
                    f"{where}: the folder {path.name!r} is not one of the task's classes "
                    f"({', '.join(task.classes[:3])} …); name the folders by class, or by class number from 0"
                )
            place = places[plain(path.name)]
            found += [(file, place) for file in sorted(path.rglob("*")) if file.suffix.lower() in FILES[kind]]
        labels = torch.tensor([place for _, place in found], dtype=torch.int64)
        check_labels(task, labels, where)
        if kind == "text":
            return Examples(where, labels, lambda index: found[index][0].read_text(encoding="utf-8"))
        return Examples(where, labels, lambda index: found[index][0].read_bytes())

    def identity(self) -> str:
        """Digest of the files by their sizes and modification times, and of the names of the splits."""
        return digest(files_identity(self.root), self.splits)

    def _existing(self, split: SplitName) -> Path:
        if split in self.splits:
            return self.root / self.splits[split]
        if split == "train" and not self.splits:
            return self.root
        raise UserError(
            f"data of {self.name} ({self.root}): there is no folder {split}; "
            f"it has: {', '.join(self.splits) or 'classes'}"
        )


def class_folders(
    name: str, root: Path, splits: Mapping[str, Sequence[str]], required: Sequence[str]
) -> ClassFolders | None:
    """The class folders in `root`, if any; `splits` are possible names of split folders."""
    found: dict[str, str] = {}
    for split, names in splits.items():
        for folder in names:
            if split not in found and (root / folder).is_dir() and _has_class_folders(root / folder):
                found[split] = folder
    if found:
        return ClassFolders(name, root, found, required)
    usual = {folder for names in splits.values() for folder in names} | {"data"}
    alone = root.is_dir() and _has_class_folders(root) and not any((root / folder).exists() for folder in usual)
    return ClassFolders(name, root, {}, required) if alone and _has_files(root) else None


def files_identity(root: Path) -> str:
    """Digest of a file, or of the files of a folder, by sizes and modification times."""
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    stats = [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digest(str(root.resolve()), stats)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _has_class_folders(folder: Path) -> bool:
    inside = list(folder.iterdir())
    return any(path.is_dir() for path in inside) and not any(path.suffix in TABLES for path in inside)


def _has_files(root: Path) -> bool:
    endings = {ending for endings in FILES.values() for ending in endings}
    return any(file.suffix.lower() in endings for folder in _folders(root) for file in folder.iterdir())
