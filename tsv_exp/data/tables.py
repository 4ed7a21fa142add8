"""Data sets on the hub, folders that `datasets` reads, and single tables; only the requested split is read."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tsv_exp.checkpoints.hub import downloads
from tsv_exp.checkpoints.hub import failures as hub
from tsv_exp.data.columns import choose, content, names_of
from tsv_exp.data.examples import EMPTY, Examples, Kind
from tsv_exp.data.folders import files_identity
from tsv_exp.errors import UserError
from tsv_exp.runtime.console import on_terminal
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import atomic, cache_dir
from tsv_exp.storage.json_files import read_object
from tsv_exp.tasks.task import SplitName, Task

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}


class Tables:
    """Tables with a column of inputs and a column of labels.

    Args:
        name: the task's name.
        place: the hub's name of a data set; a folder that `datasets` can load, in the hub's layout or with a file per
            split; or one file of training examples.
        data: keys of the task's YAML: config, input, label, and the names of the splits (or their files).
    """

    def __init__(self, name: str, place: str | Path | None, data: Mapping[str, Any]):
        self.name = name
        self.place = place
        self.columns = {"input": data.get("input"), "label": data.get("label")}
        self.given = {split: data[split] for split in ("train", "validation", "test") if split in data}
        self.files = {split: name for split, name in self.given.items() if is_file(name)}
        # In a local folder the hub's name of a configuration is not needed to find its files.
        self.config = data.get("config") if isinstance(place, str) else None

    def class_names(self, kind: Kind) -> Sequence[str]:
        """The classes of the label column of train, in the data set's order if it has one, else sorted."""
        where = self._where("train")
        return names_of(self._table("train", where), self.columns["label"], kind, where)

    def has(self, split: SplitName) -> bool:
        """Whether the data have the split: by its name in the task's YAML, else by a usual name."""
        if split in self.given:
            return isinstance(self.given[split], str)
        return split == "train" if self._only_train else split in self._builder[1]

    def examples(self, task: Task, split: SplitName, kind: Kind) -> Examples:
        """The rows of a split.

        Raises:
            UserError: the data cannot be fetched, or do not fit the task.
        """
        where = self._where(split)
        table = self._table(split, where)
        picked = choose(table, self.columns, task, kind, where)
        folder = self.place if isinstance(self.place, Path) else Path()
        return content(table, picked, task, kind, where, folder.parent if folder.is_file() else folder)

    def identity(self) -> str:
        """Digest of the hub's name, or of local files by their sizes and modification times; and of the keys given."""
        named = [self.columns["input"], self.columns["label"]]
        hub = [self.place, self.config, self.given.get("test", "test")]
        place: Any = files_identity(self.place) if isinstance(self.place, Path) else hub
        others = {split: name for split, name in self.given.items() if name and (split != "test" or place != hub)}
        usual = [] if self._only_train else sorted({"validation", "test"} - self.given.keys())
        keys = [named, others, *([usual] if usual else [])] if any(named) or others or usual else []
        if self.files:
            files = [files_identity(Path(file).expanduser()) for file in self.files.values()]
            return digest(files if self.place is None else [*files, place], keys)
        return digest(place, *([keys] if keys else []))

    @property
    def _only_train(self) -> bool:
        """Whether a split that is not named is there only if it is train: no other is found by a usual name."""
        return bool(self.files) or (isinstance(self.place, Path) and self.place.is_file())

    def _name(self, split: str) -> str:
        return str(self.given.get(split) or split)

    def _where(self, split: str) -> str:
        named = f"split {self._name(split)}" if split not in self.files else str(self.files[split])
        return (
            f"data of {self.name} ({self.place}, {named})"
            if self.place is not None
            else f"data of {self.name} ({named})"
        )

    @cached_property
    def _builder(self) -> tuple[str, Mapping[str, list[str]]]:
        """The name of the builder of `datasets`, and the files of each split.

        Those of the hub are recorded in the user's cache, and read from there if the hub cannot be reached.
        """
        datasets = _library()
        record = cache_dir() / "data" / f"{digest([str(self.place), self.config])[:20]}.json"
        try:
            with hub.failures(self._where("test")):
                found = datasets.load_dataset_builder(str(self.place), name=self.config)
        except UserError as error:
            if not hub.broken(error.__cause__ or error) or not record.is_file():
                raise
            known = read_object(record)
            return known["builder"], known["files"]
        files = {str(name): list(files) for name, files in (found.config.data_files or {}).items()}
        if isinstance(self.place, str):
            with atomic(record) as path:
                path.write_text(json.dumps({"builder": found.name, "files": files}), encoding="utf-8")
        return found.name, files

    def _table(self, split: SplitName, where: str) -> Any:
        datasets = _library()
        try:
            with hub.failures(where):
                builder, files, options = self._files(split, where)
                name = split if split in self.files else self._name(split)
                # Naming the files of one split keeps the other splits' files from being downloaded.
                return datasets.load_dataset(builder, data_files={name: files}, split=name, **options)
        except (FileNotFoundError, ValueError, datasets.exceptions.DatasetBuildError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            if "corresponds to no data" in reason:
                raise UserError(f"{where}: {EMPTY}") from error
            raise UserError(
                f"{where}: damaged, or not laid out as data ({reason}); expected parquet files, "
                "or one folder per class: fetch them again, or give another copy as tasks.<name>.data=DIR"
            ) from error

    def _files(self, split: SplitName, where: str) -> tuple[str, list[str], dict[str, Any]]:
        """A builder of `datasets`, the files of a split, and the builder's options."""
        single = self.files.get(split) or (
            self.place if isinstance(self.place, Path) and self.place.is_file() else None
        )
        if single is not None:
            file = Path(single).expanduser()
            if not file.is_file():
                raise UserError(f"{where}: no such file")
            return BUILDERS[file.suffix.lower()], [str(file)], {"sep": "\t"} if file.suffix.lower() == ".tsv" else {}
        if self.place is None:
            raise UserError(f"{where}: there is no such split; it has: {', '.join(self.files)}")
        builder, found = self._builder
        name = self._name(split)
        if name not in found:
            raise UserError(f"{where}: there is no such split; it has: {', '.join(found) or 'none'}")
        return builder, downloads.data(found[name]), {}


def _library() -> Any:
    """The library `datasets`, without its progress bars where this program shows none, unless the user decided."""
    import datasets

    if not on_terminal() and datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is None:
        datasets.disable_progress_bars()
    return datasets


def is_file(name: object) -> bool:
    """Whether the name of a split is a file name."""
    return isinstance(name, str) and Path(name).suffix.lower() in BUILDERS
